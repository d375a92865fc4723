"""Image for conversion, and for evaluating and serving GGUF: llama.cpp, and what merging needs."""

from tuneline.images import llama
from tuneline.images.cpu import TORCH_CPU
from tuneline.images.packages import with_locked
from tuneline.images.source import with_source

image = with_source(with_locked(with_locked(llama.image, "torch", index_url=TORCH_CPU), "convert"))
