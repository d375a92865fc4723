"""The models an evaluation compares: the base, the 16-bit tuned model, its quantized files, and which one is served."""

from pathlib import Path

from tuneline.configs.recipe import Recipe

BASE, REFERENCE = "base", "tuned-F16"


def target_files(recipe: Recipe, converted: Path) -> dict[str, Path]:
    """Return the GGUF file of each target: the base, the 16-bit reference (always made), and each quantization."""
    names = [BASE, REFERENCE, *(f"tuned-{kind}" for kind in recipe.convert.types if kind != "F16")]
    return {name: converted / (f"{name}-F16.gguf" if name == BASE else f"{name}.gguf") for name in names}


def served_target(recipe: Recipe) -> str:
    """Return the target that goes live.

    An adapter and a merged model have the name of the 16-bit file of the same weights.
    """
    return f"tuned-{recipe.serve.type}" if recipe.serve.form == "gguf" else REFERENCE
