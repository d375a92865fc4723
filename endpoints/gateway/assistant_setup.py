"""The assistant of a gateway, as its settings and the command's options say."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tuneline.configs.catalogue import load_catalogue
from tuneline.configs.gateway import Assistant
from tuneline.configs.section import explain_first
from tuneline.core.errors import BadRequest
from tuneline.core.paths import resolve
from tuneline.endpoints.assistant.events import Limits
from tuneline.endpoints.assistant.learned_tools import LearnedTools, read_learned_tools
from tuneline.endpoints.gateway.assistant_model import AssistantModel
from tuneline.endpoints.prompts import find_prompt


def make_assistant(
    settings: Assistant, options: dict[str, Any], url: str, folder: Path, traces: Path | None = None
) -> AssistantModel | None:
    """Return the assistant, or None if nothing runs its calls; an option that is given counts before the setting.

    Conversations are kept in `folder`, and traces too, unless `traces` is another.

    Raises:
        BadRequest: options and settings do not fit together. NotFound: no such run, prompt or folder.
    """
    given = {name: value for name, value in options.items() if value}
    try:
        chosen = Assistant.model_validate(settings.model_dump() | given)
    except ValidationError as error:
        raise BadRequest(f"assistant: {explain_first(error)}") from None
    if not chosen.handlers or not chosen.model:
        return None
    if chosen.prompt:
        find_prompt(chosen.prompt)
    learned = read_learned_tools(chosen.run) if chosen.run else LearnedTools()
    return AssistantModel(
        list(chosen.handlers),
        url,
        chosen.model,
        folder,
        catalogue=load_catalogue(resolve(chosen.catalogue)) if chosen.catalogue else learned.catalogue,
        selector=learned.selector,
        unconfirmed=chosen.unconfirmed,
        knowledge=resolve(chosen.knowledge) if chosen.knowledge else None,
        prompt=chosen.prompt,
        limits=Limits(memory=chosen.memory),
        picks_only=chosen.picks_only or learned.picks_only,
        traces=traces,
    )
