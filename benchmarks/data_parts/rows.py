"""Rows by a generator that knows nothing of the checks: chats, tool calls, and rows of thousands of words."""

import json
import random
from pathlib import Path
from typing import Any

ITALIAN_TEXT = """
il la un una che non per con sono come più anche quando dove dopo prima casa giorno mare città amico lettera
strada porta finestra tavolo libro tempo lavoro mattina sera notte acqua pane vento luce voce mano occhio
parola cosa storia viaggio treno stazione piazza mercato prezzo conto ufficio documento richiesta risposta
domanda cliente visto permesso"""
ITALIAN = ITALIAN_TEXT.split()
ENGLISH_TEXT = """
the a an that not for with are like more also when where after before house day sea town friend letter street
door window table book time work morning evening night water bread wind light voice hand eye word thing story
journey train station square market price bill office document request answer question client visa permit
owner garden kitchen"""
ENGLISH = ENGLISH_TEXT.split()
GERMAN_TEXT = """
der die das und nicht mit auch wenn nach vor Haus Tag Meer Stadt Freund Brief Straße Tür Fenster Tisch Buch
Zeit Arbeit Morgen Abend Nacht Wasser Brot Wind Licht Stimme Hand Auge Wort Sache Geschichte Reise Zug Bahnhof
Platz Markt Preis Rechnung Büro Antrag Antwort Frage Kunde Erlaubnis wir haben heute schon wieder keine gute
Nachricht bekommen"""
GERMAN = GERMAN_TEXT.split()
TOOL = {
    "type": "function",
    "function": {
        "name": "get_price",
        "description": "Price of an item.",
        "parameters": {
            "type": "object",
            "properties": {"item": {"type": "string"}, "count": {"type": "integer"}},
            "required": ["item"],
        },
    },
}
TOOLS = [f"get_{what}" for what in ("price", "stock", "size", "colour", "weight", "maker", "date", "place")]
RARE = [f"get_{what}" for what in ("rank", "origin", "age", "smell")]
Rng = random.Random


def sentence(rng: Rng, words: list[str], low: int = 14, high: int = 60) -> str:
    return " ".join(rng.choices(words, k=rng.randint(low, high))).capitalize() + "."


def turn(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def chat_row(rng: Rng) -> dict[str, Any]:
    words = rng.choice((ITALIAN, ENGLISH))
    turns = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        turns += [turn("user", sentence(rng, words, 6, 25)), turn("assistant", sentence(rng, words))]
    return {"messages": turns}


def tool_row(rng: Rng, arguments: Any = None, name: str = "", listed: str = "") -> dict[str, Any]:
    listed = listed or rng.choice(TOOLS)
    name = name or listed
    item = " ".join(rng.choices(ENGLISH, k=3)) + f" {rng.randint(1, 10**6)}"
    values = {"item": item, "count": rng.randint(1, 9)} if arguments is None else arguments
    call = {"id": "c1", "type": "function", "function": {"name": name, "arguments": values}}
    turns: list[dict[str, Any]] = [
        turn("user", f"How much is {item}? " + sentence(rng, ENGLISH, 10, 30)),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": f"{rng.randint(1, 999)} euro"},
        turn("assistant", sentence(rng, ENGLISH)),
    ]
    return {"messages": turns, "tools": [{"type": "function", "function": {**TOOL["function"], "name": listed}}]}


def write_chat(file: Path, rows: int, rng: Rng) -> None:
    with file.open("w", encoding="utf-8") as out:
        for _ in range(rows):
            out.write(json.dumps(chat_row(rng), ensure_ascii=False) + "\n")


def write_long(file: Path, size: int, rng: Rng) -> None:
    """Rows of about 12,000 characters, until the file is so big."""
    with file.open("w", encoding="utf-8") as out:
        while out.tell() < size:
            turns = [turn("user" if i % 2 == 0 else "assistant", sentence(rng, ENGLISH, 180, 220)) for i in range(10)]
            out.write(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")
