"""Image for evaluation on a GPU: vLLM and llama.cpp as they serve, and the statistics."""

from tuneline.images import llama
from tuneline.images.packages import with_locked
from tuneline.images.source import with_source

image = with_source(with_locked(llama.image, "serve", "evaluate"))
