"""Handlers that only say what they would do, for all 104 tools of `configs/tools/business.yaml`.

    tuneline assistant --handlers examples/mock_handlers.py --catalogue configs/tools/business.yaml --run RUN

Replace them one by one: a function under `@handler("whatsapp.send", confirm=True)`, with the tool's arguments.
"""

import json
from typing import Any

from tuneline.configs.catalogue import load_catalogue
from tuneline.core.paths import ROOT
from tuneline.endpoints.assistant import handler

CHANGING = ("send", "create", "update", "delete", "cancel", "pay", "append", "write", "add", "book", "post", "submit")
"""Verbs of tools that change something; they are confirmed each time."""


def make_mock(name: str) -> Any:
    """Return a handler that answers with its own call."""

    @handler(name, confirm=name.rpartition(".")[2].split("_")[0] in CHANGING, timeout_s=5)
    def mock(**arguments: Any) -> str:
        """Answer with the call."""
        return json.dumps({"tool": name, "arguments": arguments, "status": "done (mock)"}, ensure_ascii=False)

    return mock


for _name in load_catalogue(ROOT / "configs" / "tools" / "business.yaml").names:
    globals()[f"mock_{_name.replace('.', '_')}"] = make_mock(_name)
