"""The two consoles of the command, and how text of others is printed on them."""

from typing import Any

from rich.console import Console

console, errors_console = Console(), Console(stderr=True)
PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}
"""Arguments of `console.print` for text that others wrote, such as paths, names and model answers."""
