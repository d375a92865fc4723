"""Container images: one a file, exact pins, our source last."""

from tuneline.images import compress, convert, cpu, evaluate, serve, train

__all__ = ["compress", "convert", "cpu", "evaluate", "serve", "train"]
