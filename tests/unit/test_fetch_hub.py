"""Stricter cases, run beside test_fetch.py (import its server): what the hub path should also hold."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_fetch import COMMIT, FILES, Hub, run  # noqa: E402


@pytest.fixture(scope="module")
def got(tmp_path_factory):
    hub, folder = Hub(), tmp_path_factory.mktemp("more")
    results, _ = run(hub.url, folder, *(f"acme/{n}" for n in ("clutter", "nested", "gpt", "badtoken", "gone")))
    yield results, folder
    hub.httpd.shutdown()


def test_no_pickle_code_or_subfolder_is_taken(got):
    from stages import artifact

    kind, path = got[0]["acme/clutter"]
    assert kind == "made", path
    assert set(artifact.open_artifact(Path(path)).manifest.files) == set(FILES)


def test_weights_only_in_a_subfolder_are_no_weights(got):
    assert got[0]["acme/nested"][0] == "BadRecipe", got[0]["acme/nested"]


def test_another_family_is_refused(got):
    assert got[0]["acme/gpt"][0] == "BadRecipe", got[0]["acme/gpt"]


def test_a_bad_token_is_named(got):
    kind, message = got[0]["acme/badtoken"]
    assert "HF_TOKEN" in message, (kind, message)


def test_a_refusal_leaves_no_draft(got):
    assert not list((got[1] / "models").glob("acme--gone@*")), list((got[1] / "models").iterdir())


def test_no_network_is_explained(tmp_path):
    results, _ = run("http://127.0.0.1:9", tmp_path, "acme/ok")
    assert results["acme/ok"][0] == "StageFailed", results
