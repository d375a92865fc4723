"""Selection guide: bases for constraints that people have."""

from dataclasses import dataclass

from tuneline.core.errors import BadRequest


@dataclass(frozen=True)
class Advice:
    """Bases for one constraint, the first choice first."""

    constraint: str
    bases: tuple[str, ...]
    reason: str


GUIDE = (
    Advice(
        "one consumer GPU",
        ("llama-3.1-8b-instruct", "mistral-7b-instruct", "llama-3.2-3b-instruct"),
        "24 GiB train 8B in 4 bit and serve it at Q8_0; 12 GiB suffice with shorter rows. Recipe: cheap",
    ),
    Advice(
        "one datacenter GPU",
        ("llama-3.3-70b-instruct", "llama-4-scout-instruct", "llama-3.1-8b-instruct"),
        "80 GiB train 70B and Scout in 4 bit, 8B in 16. Recipes: balanced, llama-4-scout",
    ),
    Advice(
        "several GPUs",
        ("llama-3.3-70b-instruct", "llama-4-scout-instruct", "llama-4-maverick-instruct"),
        "70B in 16 bit, sharded; Maverick in 4 bit needs eight. Recipe: production",
    ),
    Advice(
        "CPU only",
        ("llama-3.2-1b-instruct", "llama-3.2-3b-instruct", "tiny"),
        "serve Q4_K_M with llama.cpp; train elsewhere. Only `tiny` trains here in minutes. Recipe: demo",
    ),
    Advice(
        "phone",
        ("llama-3.2-1b-instruct", "llama-3.2-3b-instruct"),
        "under 1 GB and about 2 GB at Q4_K_M; narrow tasks only",
    ),
    Advice(
        "privacy",
        ("llama-3.1-8b-instruct", "llama-3.3-70b-instruct", "mistral-7b-instruct"),
        "train and serve on machines of your own, with serve.form gguf or merged; machines at vast.ai belong "
        "to private persons",
    ),
    Advice(
        "cost",
        ("llama-3.1-8b-instruct", "llama-3.2-3b-instruct", "mistral-7b-instruct"),
        "the smallest that passes your suites; a GGUF on a CPU costs nothing while idle. Recipe: cheap",
    ),
    Advice(
        "quality",
        ("llama-3.3-70b-instruct", "llama-4-scout-instruct", "llama-3.1-405b-instruct"),
        "measure it: `tuneline evaluate` compares base and tuned model on your own suites. Recipe: production",
    ),
)
"""Our own judgement by memory and price; not measured."""


def find_advice(constraint: str) -> Advice:
    """Return the advice for a constraint, given by its name or by a part that only one name has.

    Raises:
        BadRequest: no constraint, or several, have this name.
    """
    text = constraint.strip().lower().replace("-", " ")
    matches = [advice for advice in GUIDE if text and text in advice.constraint.lower()]
    exact = [advice for advice in matches if advice.constraint == text]
    chosen = exact or matches
    if len(chosen) == 1:
        return chosen[0]
    names = ", ".join(advice.constraint for advice in matches or GUIDE)
    raise BadRequest(f"--constraint {constraint!r}: {'could be' if matches else 'known are'} {names}")
