"""Questions as a person types them: a line with editing and history in a terminal, plain lines otherwise."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tuneline.cli.consoles import console
from tuneline.core import paths

PROMPT = "you   "
HISTORY = "chat_history"
"""File in the cache folder that only its owner can read."""


def read_questions(commands: Sequence[str] = ()) -> Iterator[str]:
    """Yield what is typed, until Ctrl-D or Ctrl-C. Tab completes `commands`; pasted lines are one question."""
    prompt = _open_prompt(commands) if sys.stdin.isatty() and sys.stdout.isatty() else console.input
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            if question := prompt(PROMPT).strip():
                yield question


def _open_prompt(commands: Sequence[str]) -> Any:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.output import create_output
    from prompt_toolkit.shortcuts import CompleteStyle

    # The stream below the guarded one, which would print the prompt's own control sequences as text.
    stream: Any = getattr(sys.stdout, "rich_proxied_file", sys.stdout)
    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(_make_history())),
        completer=WordCompleter(list(commands), sentence=True),
        complete_style=CompleteStyle.READLINE_LIKE,
        reserve_space_for_menu=0,
        output=create_output(stream),
    )
    # In a thread, since an event loop may run in this one.
    return lambda message: session.prompt(message, in_thread=True)


def _make_history() -> Path:
    """Return the file of earlier questions, which is made if it is not there."""
    file = paths.cache() / HISTORY
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    return file
