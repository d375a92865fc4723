"""The two consoles of the command."""

from tuneline.core.safe_console import SafeConsole

console, errors_console = SafeConsole(), SafeConsole(stderr=True)
