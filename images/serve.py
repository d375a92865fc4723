"""Image for serving: vLLM, and what the gateway needs to select tools; nothing else, so that it starts fast."""

import modal

from tuneline.images.pins import PYTHON, pinned
from tuneline.images.source import ENVIRONMENT, with_source

image = with_source(
    modal.Image.debian_slim(python_version=PYTHON)
    .pip_install(*pinned("vllm", "httpx"))
    .pip_install(*pinned("scikit-learn", "scipy"))
    .env(ENVIRONMENT)
)
