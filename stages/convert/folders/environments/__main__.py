"""Make an environment before it is needed."""

import logging
import sys

from tuneline.stages.convert.folders.environments import python_of

logging.basicConfig(level=logging.INFO, format="%(message)s")
python_of(sys.argv[1])
