"""Image for fetch, prepare and the pipeline run: no GPU, no compiler; torch's CPU build, which tokenizers need."""

from tuneline.images.packages import slim_image, with_locked
from tuneline.images.source import ENVIRONMENT, with_source

TORCH_CPU = "https://download.pytorch.org/whl/cpu"

packages = with_locked(with_locked(slim_image(), "torch", index_url=TORCH_CPU), "cpu").env(ENVIRONMENT)
image = with_source(packages)
