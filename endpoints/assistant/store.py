"""Conversations, what they remember and what waits for a confirmation: SQLite, in one file that survives restarts.

Everything belongs to the key that began it. Whatever another key asks for is not there, as if nobody had it.
"""

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneline.core.errors import BadRequest, Locked, NotFound

Message = dict[str, Any]
EXPIRES_S = 15 * 60.0
"""How long a call waits for its confirmation."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS conversations (
  id TEXT PRIMARY KEY, owner TEXT NOT NULL, changed REAL NOT NULL, round INTEGER NOT NULL DEFAULT 0,
  tokens INTEGER NOT NULL DEFAULT 0, style TEXT);
CREATE TABLE IF NOT EXISTS messages (
  conversation TEXT NOT NULL REFERENCES conversations ON DELETE CASCADE, number INTEGER NOT NULL,
  message TEXT NOT NULL, PRIMARY KEY (conversation, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS summaries (
  conversation TEXT PRIMARY KEY REFERENCES conversations ON DELETE CASCADE, summary TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS pending (
  id TEXT PRIMARY KEY, conversation TEXT NOT NULL REFERENCES conversations ON DELETE CASCADE, call TEXT NOT NULL,
  name TEXT NOT NULL, arguments TEXT NOT NULL, state TEXT NOT NULL, expires REAL NOT NULL);
CREATE INDEX IF NOT EXISTS pending_of ON pending (conversation);
CREATE TABLE IF NOT EXISTS facts (
  owner TEXT NOT NULL, subject TEXT NOT NULL, fact TEXT NOT NULL, stored REAL NOT NULL,
  PRIMARY KEY (owner, subject, fact));
"""


@dataclass(frozen=True)
class Pending:
    """A call that waits for a person: `id` names it in a confirmation, `call` in the conversation."""

    id: str
    conversation: str
    call: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Progress:
    """How much of a question's rounds and tokens are used."""

    round: int
    tokens: int


class Store:
    """The file. One process may use it from several threads, and several processes may use one file."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._database = sqlite3.connect(file, timeout=10, isolation_level=None, check_same_thread=False)
        file.chmod(0o600)
        for setting in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON", "secure_delete = ON"):
            self._database.execute(f"PRAGMA {setting}")
        self._database.executescript(_SCHEMA)

    def close(self) -> None:
        self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    def open_conversation(self, owner: str, conversation: str | None) -> str:
        """Return the id of the owner's conversation, or of a new one if None.

        Raises:
            NotFound: the owner has none of that id.
        """
        with self._transaction() as database:
            if conversation is None:
                conversation = secrets.token_hex(16)
                row = (conversation, owner, time.time())
                database.execute("INSERT INTO conversations (id, owner, changed) VALUES (?, ?, ?)", row)
            self._refuse_stranger(database, owner, conversation)
        return conversation

    def conversations(self, owner: str) -> list[str]:
        """Return the ids of an owner's conversations, the newest first."""
        with self._transaction() as database:
            query = "SELECT id FROM conversations WHERE owner = ? ORDER BY changed DESC, id"
            return [row[0] for row in database.execute(query, (owner,))]

    def delete_conversation(self, owner: str, conversation: str) -> None:
        """Delete a conversation and what waits in it. Raises NotFound if the owner has none of that id."""
        with self._transaction() as database:
            self._refuse_stranger(database, owner, conversation)
            database.execute("DELETE FROM conversations WHERE id = ?", (conversation,))

    def messages(self, owner: str, conversation: str) -> list[Message]:
        """Return a conversation's messages, oldest first. Raises NotFound if the owner has none of that id."""
        with self._transaction() as database:
            self._refuse_stranger(database, owner, conversation)
            query = "SELECT message FROM messages WHERE conversation = ? ORDER BY number"
            return [json.loads(row[0]) for row in database.execute(query, (conversation,))]

    def append(self, owner: str, conversation: str, known: int, messages: Sequence[Message]) -> None:
        """Add messages to a conversation of which the caller knows the last `known` ones' count.

        Raises:
            NotFound: the owner has none of that id. Locked: somebody else added to it meanwhile.
        """
        with self._transaction() as database:
            self._refuse_stranger(database, owner, conversation)
            count = "SELECT COUNT(*), COALESCE(MAX(number), -1) FROM messages WHERE conversation = ?"
            [(stored, last)] = database.execute(count, (conversation,))
            if stored != known:
                raise Locked(f"conversation {conversation}: another request continues it; send this one again")
            rows = [
                (conversation, last + 1 + n, json.dumps(message, ensure_ascii=False))
                for n, message in enumerate(messages)
            ]
            database.executemany("INSERT INTO messages VALUES (?, ?, ?)", rows)
            database.execute("UPDATE conversations SET changed = ? WHERE id = ?", (time.time(), conversation))

    def drop_oldest(self, owner: str, conversation: str, count: int) -> None:
        """Delete the oldest messages of a conversation."""
        with self._transaction() as database:
            self._refuse_stranger(database, owner, conversation)
            query = (
                "DELETE FROM messages WHERE conversation = ?1 AND number IN "
                "(SELECT number FROM messages WHERE conversation = ?1 ORDER BY number LIMIT ?2)"
            )
            database.execute(query, (conversation, count))

    def summary(self, owner: str, conversation: str) -> str:
        """Return what the model made of the turns that were dropped; empty if nothing."""
        with self._transaction() as database:
            self._refuse_stranger(database, owner, conversation)
            query = "SELECT summary FROM summaries WHERE conversation = ?"
            row = database.execute(query, (conversation,)).fetchone()
            return str(row[0]) if row else ""

    def set_summary(self, owner: str, conversation: str, summary: str) -> None:
        """Keep a summary in the place of the one before it."""
        with self._transaction() as database:
            self._refuse_stranger(database, owner, conversation)
            database.execute("INSERT OR REPLACE INTO summaries VALUES (?, ?)", (conversation, summary))

    def progress(self, owner: str, conversation: str) -> Progress:
        """Return how far the conversation's last question is."""
        with self._transaction() as database:
            self._refuse_stranger(database, owner, conversation)
            query = "SELECT round, tokens FROM conversations WHERE id = ?"
            return Progress(*next(database.execute(query, (conversation,))))

    def set_progress(self, conversation: str, progress: Progress) -> None:
        with self._transaction() as database:
            query = "UPDATE conversations SET round = ?, tokens = ? WHERE id = ?"
            database.execute(query, (progress.round, progress.tokens, conversation))

    def style(self, owner: str, conversation: str) -> str | None:
        """Return the name of the style that the conversation is in, or None."""
        with self._transaction() as database:
            self._refuse_stranger(database, owner, conversation)
            row = database.execute("SELECT style FROM conversations WHERE id = ?", (conversation,)).fetchone()
            return None if row[0] is None else str(row[0])

    def set_style(self, owner: str, conversation: str, style: str | None) -> None:
        """Continue a conversation in another style."""
        with self._transaction() as database:
            self._refuse_stranger(database, owner, conversation)
            database.execute("UPDATE conversations SET style = ? WHERE id = ?", (style, conversation))

    def add_pending(
        self,
        owner: str,
        conversation: str,
        call: str,
        name: str,
        arguments: dict[str, Any],
        expires_s: float = EXPIRES_S,
    ) -> Pending:
        """Write down a call that waits for a confirmation, and return it. Its arguments are what is confirmed."""
        pending = Pending(secrets.token_hex(16), conversation, call, name, arguments)
        with self._transaction() as database:
            self._refuse_stranger(database, owner, conversation)
            row = (pending.id, conversation, call, name, json.dumps(arguments, ensure_ascii=False), "waiting")
            database.execute("INSERT INTO pending VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, time.time() + expires_s))
        return pending

    def waiting(self, owner: str, conversation: str) -> list[Pending]:
        """Return the calls of a conversation that wait for a confirmation."""
        with self._transaction() as database:
            self._refuse_stranger(database, owner, conversation)
            query = "SELECT id, conversation, call, name, arguments FROM pending WHERE conversation = ? AND state = ?"
            return [_to_pending(row) for row in database.execute(query, (conversation, "waiting"))]

    def find_waiting(self, owner: str, identity: str) -> Pending:
        """Return a call of the owner's that waits. Raises NotFound if there is none of that id."""
        with self._transaction() as database:
            query = (
                "SELECT p.id, conversation, call, name, arguments FROM pending p "
                "JOIN conversations c ON c.id = p.conversation WHERE p.id = ? AND owner = ? AND state = 'waiting'"
            )
            row = database.execute(query, (identity, owner)).fetchone()
        if row is None:
            raise NotFound(f"call {identity!r}: no pending call of this key has this id")
        return _to_pending(row)

    def decide(self, owner: str, identity: str, confirmed: bool) -> Pending:
        """Take a call out of the waiting ones and return it, to be run if it is confirmed. That happens once.

        Raises:
            NotFound: the owner has no such call. BadRequest: it was decided already, or nobody did so in time.
        """
        with self._transaction() as database:
            query = (
                "SELECT p.id, conversation, call, name, arguments, state, expires FROM pending p "
                "JOIN conversations c ON c.id = p.conversation WHERE p.id = ? AND owner = ?"
            )
            row = database.execute(query, (identity, owner)).fetchone()
            if row is None:
                raise NotFound(f"call {identity!r}: no pending call of this key has this id")
            if row[5] != "waiting":
                raise BadRequest(f"call {identity}: was {row[5]} already")
            if confirmed and row[6] < time.time():
                raise BadRequest(f"call {identity}: it was not confirmed in time; ask again")
            state = "confirmed" if confirmed else "declined"
            database.execute("UPDATE pending SET state = ? WHERE id = ?", (state, identity))
        return _to_pending(row)

    def remember(self, owner: str, subject: str, fact: str) -> None:
        """Store a fact about a subject, for the owner alone."""
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?)", (owner, subject, fact, time.time()))

    def recall(self, owner: str, subject: str) -> list[str]:
        """Return what the owner stored about a subject, the newest first."""
        with self._transaction() as database:
            query = "SELECT fact FROM facts WHERE owner = ? AND subject = ? COLLATE NOCASE ORDER BY stored DESC"
            return [row[0] for row in database.execute(query, (owner, subject))]

    def forget(self, owner: str) -> int:
        """Delete all conversations and facts of an owner; return how many conversations there were."""
        with self._transaction() as database:
            database.execute("DELETE FROM facts WHERE owner = ?", (owner,))
            return database.execute("DELETE FROM conversations WHERE owner = ?", (owner,)).rowcount

    @staticmethod
    def _refuse_stranger(database: sqlite3.Connection, owner: str, conversation: str) -> None:
        query = "SELECT 1 FROM conversations WHERE id = ? AND owner = ?"
        if database.execute(query, (conversation, owner)).fetchone() is None:
            raise NotFound(f"conversation {conversation!r}: this key has none of this id")


def _to_pending(row: Sequence[Any]) -> Pending:
    """Return the call in a row that begins with id, conversation, call, name and arguments."""
    return Pending(row[0], row[1], row[2], row[3], json.loads(row[4]))
