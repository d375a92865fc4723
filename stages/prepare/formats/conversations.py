"""Detects the dataset format of a record by its keys, and converts each record to a conversation.

    messages           {"messages": [{"role", "content", "tool_calls"}], "tools": [names, or schemas]}
    sharegpt           {"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}]}
    alpaca             {"instruction", "input", "output", "system", "history"}
    dolly              {"instruction", "context", "response"}
    prompt-completion  {"prompt", "completion"} or {"input", "output"}, text or messages
    xlam               {"query", "answers": calls, "tools"}
    glaive             {"system": with the tools, "chat": "USER: … ASSISTANT: … FUNCTION RESPONSE: …"}
    bfcl               {"question": [messages], "function": tools, "ground_truth": calls}
    preference         {"prompt", "chosen", "rejected"} and their likes: DPO pairs, OpenAI's, and KTO's with a `label`
    text               {"text", "style"}, or a .txt or .md file

In every format an answer written as `[THINK] … [CALL] name(args) [RESULT] … [RESPONSE] …` is split into turns.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuneline.stages.prepare.checks.notes import Notes
from tuneline.stages.prepare.checks.problems import RowError
from tuneline.stages.prepare.formats.json_values import parse_json
from tuneline.stages.prepare.formats.preference import PREFERENCE, is_preference, tools_of
from tuneline.stages.prepare.formats.reading import Format, Reading, instruction_text, message
from tuneline.stages.prepare.formats.rendered_text import parse_conversation
from tuneline.stages.prepare.formats.tool_datasets import read_bfcl, read_glaive, read_xlam
from tuneline.stages.prepare.formats.tool_lists import take_tools
from tuneline.stages.prepare.formats.transcripts import is_transcript, parse_transcript
from tuneline.stages.prepare.rows import Chat

COMMON_KEYS = frozenset(
    ("tools", "functions", "system", "system_prompt", "source", "style", "document")
    + ("tool_choice", "function_call", "parallel_tool_calls")
)
"""Keys that are read in every format."""
ALIASES = {
    "conversations": ("conversation", "items", "dialogue", "dialog", "turns"),
    "messages": ("message",),
    "text": ("content",),
}
"""Other names of the keys that a format is known by."""


@dataclass(frozen=True)
class Conversation:
    """What a record says, before it is checked: its turns, its tools as they are in the record, and their choice."""

    chat: Chat
    tools: Any = None
    tool_choice: Any = None
    parallel: Any = None

    @property
    def has_choice(self) -> bool:
        """Whether the record says anything of how tools are called."""
        return self.tool_choice is not None or self.parallel is not None


def detect_format(value: Any) -> str:
    """Return the name of a record's format.

    Raises:
        RowError: The record has the keys of no format.
    """
    value = with_known_keys(value)
    if is_preference(value):
        return "preference"
    for name, form in FORMATS.items():
        if form.matches(value):
            return name
    known = "; ".join(f"{' + '.join(form.needed[0])} ({name})" for name, form in FORMATS.items())
    hint = _suggest_columns(value)
    raise RowError("not_a_row", f"keys {', '.join(map(str, value)) or '(none)'}: {hint}looked for {known}")


def require_format(value: Mapping[str, Any], form: str) -> None:
    """Raise RowError unless a record has the keys of this format, that of the first record of its file."""
    if is_preference(value) if form == "preference" else FORMATS[form].matches(value):
        return
    missing = next((key for key in FORMATS[form].needed[0] if value.get(key) is None), "")
    keys = ", ".join(map(str, value)) or "no keys"
    raise RowError("not_a_row", f"{missing}: missing (the file is in {form} format); the keys are {keys}")


def with_known_keys(value: Any) -> Any:
    """Return a record under the keys that formats are known by: a list of turns, and other names of those keys.

    Raises:
        RowError: it is neither an object nor a list of turns.
    """
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        return {"messages": value} if "from" not in value[0] else {"conversations": value}
    if not isinstance(value, dict):
        raise RowError("not_a_row", f"a row must be an object, not {type(value).__name__}")
    if any(key in value for key in ("messages", "conversations", "prompt", "instruction", "text", "chosen")):
        return value
    for key, names in ALIASES.items():
        for name in names:
            is_list = isinstance(value.get(name), list)
            if is_list if key != "text" else len(value) == 1 and isinstance(value.get(name), str):
                return {key: value[name]} | {other: item for other, item in value.items() if other != name}
    return value


def rename_columns(value: Any, columns: Mapping[str, str]) -> Any:
    """Return a record with its columns renamed; `columns` has the column for each key of a format.

    Raises:
        RowError: A column is missing.
    """
    if not columns or not isinstance(value, dict):
        return value
    if missing := [column for column in columns.values() if column not in value]:
        raise RowError("not_a_row", f"column {missing[0]!r} is missing; the columns are {', '.join(map(str, value))}")
    rest = {key: item for key, item in value.items() if key not in columns.values()}
    return rest | {target: value[column] for target, column in columns.items()}


def to_conversation(value: Mapping[str, Any], form: str, reading: Reading) -> Conversation:
    """Return the conversation of a record in a format; the tools are as in the record.

    Raises:
        RowError: A value is not as the format has it.
    """
    if left_out := next((key for key in ("weight", "train") if key in value and value[key] in (0, False)), None):
        raise RowError("left_out", f"{left_out}: {value[left_out]}: the row is not trained on")
    notes, reader = reading.notes, FORMATS[form]
    _report_unused(value, reader, notes)
    chat = reader.read(value, reading)
    if len(value) == 1 and chat and chat[0]["role"] != "system":
        return Conversation(_split_transcripts(chat, reading))
    system = value.get("system") or value.get("system_prompt")
    if form == "glaive" and isinstance(system, str):
        system = system.strip().removeprefix("SYSTEM:").strip()
    if system and not (chat and chat[0]["role"] == "system"):
        chat = [*reading.turns_or_text(system, "system", "system"), *chat]
    elif system and chat[0].get("content") != system:
        raise RowError("not_a_row", "system: the turns contain a system message too")
    if len(chat) > 1 and chat[0]["role"] == "system" and not (chat[0].get("content") or "").strip():
        chat = chat[1:]  # as good as none
    tools = _read_tools(value, form, notes)
    if chat and chat[0]["role"] == "system":
        chat, tools = _without_listed_tools(chat, tools, notes)
    choice = value.get("tool_choice") or value.get("function_call")
    return Conversation(_split_transcripts(chat, reading), tools, choice, value.get("parallel_tool_calls"))


def _read_tools(value: Mapping[str, Any], form: str, notes: Notes) -> Any:
    """Return the tools of a record as it has them, or None."""
    if form == "bfcl":
        return parse_json(value["function"], "function", notes)
    tools = parse_json(value.get("tools", tools_of(value) if form == "preference" else None), "tools", notes)
    functions = parse_json(value.get("functions"), "functions", notes)
    if isinstance(tools, list) and isinstance(functions, list):
        return [*tools, *functions]
    return tools if functions is None else functions


def _report_unused(value: Mapping[str, Any], form: Format, notes: Notes) -> None:
    if len(value) == 1:
        return
    unused = value.keys() - COMMON_KEYS - form.keys
    if unused := {key for key in unused if value[key] not in (None, "", [], {})}:
        notes.add_unused(unused, "")


def _without_listed_tools(chat: Chat, tools: Any, notes: Notes) -> tuple[Chat, Any]:
    """Return (chat, tools) with the tools that the system message lists as text, and not in that message."""
    system = chat[0].get("content") or ""
    if tools and "<tools>" not in system and '"parameters"' not in system:
        return chat, tools
    listed, rest = take_tools(system)
    if not listed or (tools and not _same_names(listed, tools)):
        return chat, tools
    notes.add("system_changed", "tools listed as text in the system message are listed by the template instead")
    head = [{"role": "system", "content": rest}] if rest else []
    return [*head, *chat[1:]], tools or listed


def _same_names(listed: list[Any], tools: Any) -> bool:
    def name(tool: Any) -> Any:
        return (tool.get("function") or tool).get("name") if isinstance(tool, dict) else tool

    return isinstance(tools, list) and {name(tool) for tool in listed} <= {name(tool) for tool in tools}


def _suggest_columns(value: Mapping[str, Any]) -> str:
    """Return how the columns of a record could be mapped, if their names say question and answer."""
    if columns := guess_columns(value):
        mapping = f"{{prompt: {columns['prompt']}, completion: {columns['completion']}}}"
        return f"map them with `columns: {mapping}` in a recipe, as `tuneline init` does; "
    return ""


QUESTION_COLUMNS = ("question", "prompt", "query", "user", "instruction", "input", "domanda", "pertanyaan")
ANSWER_COLUMNS = ("answer", "response", "completion", "assistant", "output", "reply", "risposta", "jawaban")
"""Names of columns that are taken for question and answer in a file of no known format."""


def guess_columns(value: Any) -> dict[str, str]:
    """Return the columns of question and answer of a record, by their names; an empty dict if there are none."""
    keys = [key for key, item in value.items() if item is not None] if isinstance(value, dict) else []
    question = next((key for name in QUESTION_COLUMNS for key in keys if str(key).lower() == name), None)
    answer_key = next((key for name in ANSWER_COLUMNS for key in keys if str(key).lower() == name), None)
    return {"prompt": question, "completion": answer_key} if question is not None and answer_key is not None else {}


def _messages(value: Mapping[str, Any], reading: Reading) -> Chat:
    return reading.turns(value["messages"], "messages")


def _sharegpt(value: Mapping[str, Any], reading: Reading) -> Chat:
    return reading.turns(value["conversations"], "conversations")


def _alpaca(value: Mapping[str, Any], reading: Reading) -> Chat:
    chat: Chat = []
    history = parse_json(value.get("history"), "history", reading.notes) or []
    for pair in history if isinstance(history, list) else [history]:
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowError("not_a_row", "history: a list of [question, answer]")
        chat += [message("user", pair[0], "history"), message("assistant", pair[1], "history")]
    question = message("user", instruction_text(value, "input"), "instruction")
    return [*chat, question, *reading.turns_or_text(value["output"], "assistant", "output")]


def _dolly(value: Mapping[str, Any], reading: Reading) -> Chat:
    question = instruction_text(value, "context" if value.get("context") else "input")
    return [
        message("user", question, "instruction"),
        *reading.turns_or_text(value["response"], "assistant", "response"),
    ]


def _prompt_completion(value: Mapping[str, Any], reading: Reading) -> Chat:
    keys = next(keys for keys in PAIRS if all(value.get(key) is not None for key in keys))
    prompt, completion = (value[key] for key in keys)
    if isinstance(prompt, str) and isinstance(completion, str) and (turns := _rendered(prompt, completion, reading)):
        return turns
    question = reading.turns_or_text(prompt, "user", keys[0])
    return [*question, *reading.turns_or_text(completion, "assistant", keys[1])]


def _rendered(prompt: str, completion: str, reading: Reading) -> Chat:
    """Return the turns of a prompt that some template wrote, with the answer after it; an empty list otherwise."""
    if not any(mark in prompt for mark in ("[INST]", "<|", "###", "<start_of_turn>")):
        return []
    parsed = parse_conversation(prompt + completion)
    if parsed is None:
        return []
    reading.notes.add(
        "text_as_turns", f"prompts are conversations in a chat template's format ({parsed[0]}): read as turns"
    )
    return parsed[1]


def _text(value: Mapping[str, Any], reading: Reading) -> Chat:
    if value.get("style") or not isinstance(value["text"], str):
        return []
    parsed = parse_conversation(value["text"])
    if parsed is None:
        return []
    if reading.learn == "continuation":
        reading.notes.add("chat_as_text", f"the text is a conversation ({parsed[0]}): its questions are trained on too")
        return []
    reading.notes.add(
        "text_as_turns", f"texts are conversations in a chat template's format ({parsed[0]}): read as turns"
    )
    return parsed[1]


def _split_transcripts(chat: Chat, reading: Reading) -> Chat:
    """Return the chat with each answer that is a transcript replaced by its turns."""
    turns: Chat = []
    for turn in chat:
        content: str = turn.get("content") or ""
        has_tags = turn["role"] == "assistant" and "[" in content and not turn.get("tool_calls")
        if has_tags and is_transcript(content):
            if "[THINK]" in content and not reading.keep_thinking:
                reading.notes.add("thinking_dropped", "the thinking of an answer is left out")
            turns += parse_transcript(content, keep_thinking=reading.keep_thinking)
        else:
            turns.append(turn)
    return turns


PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("input", "output"),
)
"""Keys of a question and its answer."""
FORMATS: dict[str, Format] = {
    "messages": Format((("messages",),), (), _messages),
    "sharegpt": Format((("conversations",),), (), _sharegpt),
    "alpaca": Format((("instruction", "output"),), ("input", "history"), _alpaca),
    "dolly": Format((("instruction", "response"),), ("context", "input"), _dolly),
    "xlam": Format((("query", "answers"),), (), read_xlam),
    "glaive": Format((("chat",),), (), read_glaive),
    "bfcl": Format((("question", "function"),), ("ground_truth", "answer"), read_bfcl),
    "prompt-completion": Format(PAIRS, (), _prompt_completion),
    "text": Format((("text",),), (), _text),
    "preference": PREFERENCE,
}
