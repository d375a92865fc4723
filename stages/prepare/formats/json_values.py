"""Values that rows have as JSON text, and tool calls in the forms of JSON that they have."""

import json
from collections.abc import Iterator
from typing import Any

from tuneline.core.python_literals import parse_python
from tuneline.stages.prepare.checks.notes import Notes
from tuneline.stages.prepare.checks.problems import RowError


def to_call(call: Any) -> dict[str, Any]:
    """Return an entry of `tool_calls`: its function is below `function`, or is the entry itself.

    Raises:
        RowError: it is no object.
    """
    if not isinstance(call, dict):
        raise RowError("bad_arguments", f"a call is {{function: {{name, arguments}}}}, this is {call!r:.40}")
    if isinstance(call.get("function"), dict):
        return call
    name = call.get("name") or call.get("function") or call.get("tool_name")
    arguments = next((call[key] for key in ("arguments", "parameters", "args", "input") if key in call), None)
    return {"id": call.get("id") or call.get("call_id"), "function": {"name": name, "arguments": arguments}}


def parse_calls(content: Any, key: str) -> list[dict[str, Any]]:
    """Return the calls of a turn that is nothing but calls: one as JSON, a list of them, or one after the other.

    Raises:
        RowError: it is not.
    """
    values = list(_values(content)) if isinstance(content, str) else [content]
    calls = [call for value in values for call in (value if isinstance(value, list) else [value])]
    if not calls or not all(isinstance(call, dict) and (call.get("name") or call.get("function")) for call in calls):
        raise RowError("bad_arguments", f'{key}: a call is {{"name": …, "arguments": …}}: {str(content)[:60]!r}')
    return [to_call(call) for call in calls]


def _values(text: str) -> Iterator[Any]:
    """Yield the JSON values in a text one after the other, also between <tool_call> tags; Python's as a last resort."""
    decoder, rest = json.JSONDecoder(), text.replace("<tool_call>", " ").replace("</tool_call>", " ").strip()
    while rest:
        try:
            value, end = decoder.raw_decode(rest)
        except (ValueError, RecursionError):
            yield parse_python(rest)
            return
        yield value
        rest = rest[end:].lstrip(" \t\r\n;,")


def parse_json(value: Any, key: str = "", notes: Notes | None = None) -> Any:
    """Return the value of JSON text, which tables and some datasets have for lists; None for empty text.

    A list that Python's `repr` wrote is read too, and noted.

    Raises:
        RowError: it begins as JSON does, and is none.
    """
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return None if value == "" else value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        if (parsed := parse_python(value)) is not None:
            if notes:
                notes.add("python_text", f"{key}: it is a Python literal (repr) and is read as such")
            return parsed
        where = f"{key}: " if key else ""
        if "'" in value[:20]:
            text = f"{where}a Python literal, not JSON ({value[:40]!r}): use json.dumps, or Parquet"
            raise RowError("broken_json", text) from None
        raise RowError("broken_json", f"{where}not JSON: {error}: {value[:40]!r}") from None
