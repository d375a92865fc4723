"""What a deployed assistant needs: one gateway container, its files in the image, whole copies of its conversations."""

from pathlib import Path

import pytest

from tuneline.configs.cloud import Cloud
from tuneline.configs.gateway import Assistant
from tuneline.core.errors import BadRecipe
from tuneline.endpoints.assistant.store import Store
from tuneline.volumes.assistant_files import list_assistant_files
from tuneline.volumes.conversation_copies import ConversationCopies


def test_an_assistants_conversations_have_one_gateway() -> None:
    several = Cloud.model_validate({"gateway": {"max_containers": 2}}).gateway
    with pytest.raises(BadRecipe, match=r"in one SQLite file.* `tuneline gateway`"):
        several.check_assistant(["my_module"])
    several.check_assistant([])
    Cloud().gateway.check_assistant(["my_module"])


def test_an_assistants_files_are_found_where_it_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("rates.py", "shop/__init__.py", "apis/pets.yaml", "server.py", "handbook/a.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    sources = (
        *("rates", "shop.orders", "apis/pets.yaml", str(tmp_path / "rates.py"), "https://host/openapi.json"),
        *("mcp:python server.py --fast", "mcp:https://host/mcp", "tuneline.endpoints.assistant.memory"),
    )
    files = list_assistant_files(Assistant(model="m", handlers=sources, knowledge=Path("handbook")))
    names = ["rates.py", "shop", "apis/pets.yaml", "server.py", "handbook"]
    assert files == {name: tmp_path / name for name in names} | {str(tmp_path / "rates.py"): tmp_path / "rates.py"}
    for source, reason in (("nowhere", "no such file or folder"), ("../x.py", "no such file")):
        with pytest.raises(BadRecipe, match=rf"assistant\.handlers\[0\]: {source}: {reason}"):
            list_assistant_files(Assistant(model="m", handlers=(source,)))


def test_copies_of_conversations_are_whole_and_the_newest_containers(tmp_path: Path) -> None:
    first = ConversationCopies(tmp_path / "volume")
    store = Store(first.folder / "assistant.db")
    kept = store.open_conversation("ann", None)
    first.publish()
    first.publish()
    second = ConversationCopies(tmp_path / "volume")  # while the first one still answers
    later = Store(second.folder / "assistant.db")
    assert later.open_conversation("ann", kept) == kept
    later.delete_conversation("ann", kept)
    second.publish()
    store.open_conversation("ann", None)
    first.publish()  # it ends after the second one has begun: the newest is still the second's
    third = Store(ConversationCopies(tmp_path / "volume").folder / "assistant.db")
    assert third.conversations("ann") == []
