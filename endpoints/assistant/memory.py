"""Handlers of memory: `memory.store` and `memory.recall` of our catalogue, each key's facts apart.

`tuneline assistant --handlers tuneline.endpoints.assistant.memory`
"""

from tuneline.endpoints.assistant.caller import current_caller
from tuneline.endpoints.assistant.handlers import handler


@handler("memory.store")
def store(person: str, fact: str) -> str:
    """Remember a fact about a person.

    Args:
        person: The person it is about.
        fact: What to remember.
    """
    caller = current_caller()
    caller.store.remember(caller.owner, person, fact)
    return "stored"


@handler("memory.recall")
def recall(person: str) -> list[str]:
    """Recall what is remembered about a person.

    Args:
        person: The person it is about.
    """
    caller = current_caller()
    return caller.store.recall(caller.owner, person)
