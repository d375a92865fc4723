"""Container images: one per file, with exact pins and our source added last."""

from tuneline.images import compress, convert, cpu, evaluate, gateway, page, serve, train

__all__ = ["compress", "convert", "cpu", "evaluate", "gateway", "page", "serve", "train"]
