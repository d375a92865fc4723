"""Image for conversion and for serving GGUF: the packages of `cpu`, and llama.cpp."""

from tuneline.images import cpu
from tuneline.images.llama import with_llama
from tuneline.images.pins import pinned
from tuneline.images.source import with_source

image = with_source(with_llama(cpu.packages.pip_install(*pinned("sentencepiece", "peft", "accelerate"))))
