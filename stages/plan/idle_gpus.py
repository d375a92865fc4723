"""GPUs that a recipe rents and that nothing would use."""

from tuneline.configs.recipe import Recipe
from tuneline.core.errors import BadRecipe


def find_idle_gpus(recipe: Recipe) -> tuple[str, ...]:
    """Return a line for each stage whose `compute` names a GPU that it would not use; empty if there is none.

    Training and conversion run the model on a GPU where there is one (stages/convert/reference_model.py).
    """
    reasons = {
        "fetch": "fetch downloads files",
        "prepare": "prepare reads and renders rows on CPU cores",
        "evaluate": None
        if recipe.serve.form != "gguf"
        else "a GGUF is evaluated with llama.cpp, which is built for CPUs",
    }
    gpus = {stage: getattr(recipe.compute, stage).gpu for stage in reasons}
    return tuple(
        f"compute.{stage}.gpu: {gpus[stage]}: would be idle: {reason}"
        for stage, reason in reasons.items()
        if reason and gpus[stage]
    )


def refuse_idle_gpus(recipe: Recipe) -> None:
    """Raise BadRecipe if a GPU would be rented and not used."""
    if idle := find_idle_gpus(recipe):
        raise BadRecipe("\n".join([*idle, "write `gpu: null`, or remove the key"]))
