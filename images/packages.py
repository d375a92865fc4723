"""Packages of images at exact versions, each file checked by its hash. `make lock` writes `requirements/NAME.txt`.

`NAME.in` beside it lists what an image uses; versions are those of requirements.lock, except beside vLLM. These belong
together:

| Pin | Goes with | Why |
| --- | --- | --- |
| torch 2.13 | vLLM 0.32 | vLLM requires exactly this torch; training and serving then share kernels and numerics |
| transformers 5.23 | trl 1.16, peft 0.21 | what the tests run with; the adapter's format is theirs |
| transformers 5.19 (serve) | vLLM 0.32 | vLLM requires less than 5.20: hence an image of its own |
| fastapi 0.136 (serve) | vLLM 0.32 | vLLM requires less than 0.137 |
| llama.cpp of llama-cpp-python 0.3.36 | the GGUF files | converter, quantizer and server of one source, by its hash |
| kernels 0.17 | torch 2.13 | FlashAttention, compiled: flash-attn itself has no wheel on PyPI |

transformers 5.23 loads kernels by `kernels` 0.18.2 or newer, which PyPI did not have when the versions were locked:
stages/train/model/flash_attention.py does it by 0.17.
"""

import modal

from tuneline.core.attention_kernels import FLASH_ATTENTION
from tuneline.core.package_locks import CHECKED, LOCKS

PYTHON = "3.12"
"""CUDA builds of flash kernels appear for this version first; the code itself runs on 3.11 to 3.13."""

KERNELS: dict[str, str | None] = {FLASH_ATTENTION: None}
"""Compiled kernels from the hub, each with its commit. None: nobody has looked it up on the hub yet. Then the build of
the image looks up once what its branch `v4` is, and installs and records that commit; a later build may find another.
The `versions` in the manifest of a training name it: copy it here, and it is pinned."""


def slim_image() -> modal.Image:
    """Return an image with Python and pip."""
    return with_locked(modal.Image.debian_slim(python_version=PYTHON), "pip")


def with_locked(image: modal.Image, *names: str, index_url: str | None = None) -> modal.Image:
    """Return `image` with the packages of `requirements/NAME.txt` for each name."""
    for name in names:
        lock = str(LOCKS / f"{name}.txt")
        image = image.pip_install_from_requirements(lock, index_url=index_url, extra_options=" ".join(CHECKED))
    return image
