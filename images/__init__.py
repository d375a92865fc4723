"""Container images: one a file, exact pins, our source last."""
