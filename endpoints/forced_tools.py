"""OpenAI's `tool_choice` for llama-server, which knows `auto`, `none` and `required`, and reads all else as `auto`.

A call of one tool is a call that is required of a request with that tool alone: llama-server then makes a grammar of
its schema (common/chat.cpp, tools/server/server-common.cpp of llama.cpp). vLLM knows a named tool by itself.
"""

from collections.abc import Collection, Mapping
from typing import Any

MODES = ("none", "auto", "required")


def find_choice_mistake(body: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a request's `tool_choice`, or None. Its tools and it are of the right types."""
    choice = body.get("tool_choice")
    if choice in (None, "none", "auto"):
        return None
    names = _tool_names(body.get("tools") or ())
    if not names:
        return "only with `tools`"
    forced = _forced_names(choice)
    if forced is None:
        return f"of type {choice.get('type')!r}; known are `function` and `allowed_tools`"
    if isinstance(choice, dict) and not forced:
        return "names no tool"
    if missing := [name for name in forced if name not in names]:
        return f"{missing[0]}: not among `tools`, which are {', '.join(names)}"
    return None


def force_tools(body: Mapping[str, Any], known: Collection[str] = ()) -> dict[str, Any]:
    """Return a request's body with only the tools that its `tool_choice` names, and a mode in place of the choice.

    A choice of a type that is `known` to the engine stays. `find_choice_mistake` has found none.
    """
    choice = body.get("tool_choice")
    if not isinstance(choice, dict) or choice["type"] in known:
        return dict(body)
    forced = _forced_names(choice) or []
    tools = [tool for tool in body["tools"] if tool["function"]["name"] in forced]
    mode = "required" if choice["type"] == "function" else choice["allowed_tools"].get("mode", "auto")
    return {**body, "tools": tools, "tool_choice": mode}


def _tool_names(tools: Any) -> list[str]:
    return [tool["function"]["name"] for tool in tools if isinstance(tool.get("function"), dict)]


def _forced_names(choice: Any) -> list[str] | None:
    """Return the tools that a choice names, none for a mode; None for a choice of another kind."""
    if not isinstance(choice, dict):
        return []
    try:
        if choice.get("type") == "function":
            return [str(choice["function"]["name"])]
        if choice.get("type") == "allowed_tools" and choice["allowed_tools"].get("mode", "auto") in MODES:
            return _tool_names(choice["allowed_tools"]["tools"])
    except (KeyError, TypeError, AttributeError):
        return []
    return None
