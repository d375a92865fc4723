"""Conversion, and serving GGUF: the packages of `cpu`, and llama.cpp."""

from images import cpu
from images.llama import with_llama
from images.pins import pinned
from images.source import with_source

image = with_source(with_llama(cpu.packages.pip_install(*pinned("sentencepiece", "peft", "accelerate"))))
