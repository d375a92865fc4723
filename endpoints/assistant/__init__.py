"""The assistant: a model that picks tools, and what runs them.

from tuneline.endpoints.assistant import handler

@handler("whatsapp.send", confirm=True, timeout_s=10)
async def send(to: str, message: str) -> str: ...
"""

from tuneline.endpoints.assistant.handlers import handler

__all__ = ["handler"]
