"""The same checks against Modal itself, for whoever has an account: `TUNELINE_LIVE=1 pytest tests/live`.

They cost a few cents of CPU. Nobody has run them yet.
"""

import os

import pytest

from tests.rehearsal.conftest import Cloud


@pytest.fixture(scope="session")
def stage() -> Cloud:
    if os.environ.get("TUNELINE_LIVE") != "1":
        pytest.skip("needs a Modal account, and spends a few cents: TUNELINE_LIVE=1 pytest tests/live")
    return Cloud({})
