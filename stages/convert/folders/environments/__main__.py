"""Create an environment before it is used."""

import logging
import sys

from tuneline.stages.convert.folders.environments import environment_python

logging.basicConfig(level=logging.INFO, format="%(message)s")
environment_python(sys.argv[1])
