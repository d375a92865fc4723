"""Image for serving: vLLM, and what it takes to select tools; nothing else, so that it starts fast."""

from tuneline.images.packages import slim_image, with_locked
from tuneline.images.source import ENVIRONMENT, with_source

image = with_source(with_locked(slim_image(), "serve").env(ENVIRONMENT))
