"""Text from outside is shown in a model card as it is, and never becomes markup, whichever text it is."""

import json
import re
from pathlib import Path

import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.unit.test_card import of, run
from tuneline.configs.data import Source, Synthesis
from tuneline.configs.recipe_file import load_recipe
from tuneline.core.markdown import autolink, code_span, escape_markdown
from tuneline.core.page_templates import load_template
from tuneline.core.paths import ROOT
from tuneline.stages.prepare.recipe_starter import write_starter_recipe
from tuneline.stages.report.model_card import write_card

__all__ = ["run"]

EVIL = (
    "a|b`c`[d](javascript:alert(1))<img src=x onerror=alert(1)>&lt;b&gt; *e* **f** ~~g~~ ![h](i)\n\n# j\n\n---\n"
    "```\nk\n```\n| l |\n|---|\r\n\x1b[31m- m\u2028<script>alert(2)</script>\n1. n\n[o]: https://p.q www.r.s $t$"
)
MARKS = [
    "|",
    "`",
    "[x](y)",
    "<b>",
    "&amp;",
    "*",
    "_",
    "~~",
    "#",
    "-",
    "+",
    "=",
    "1.",
    "\\",
    "\n",
    "    ",
    "![",
    "]",
    "x",
]
READER = MarkdownIt("gfm-like", {"linkify": False, "html": True})


def shape(markdown: str) -> list[str]:
    """The kind of every block and of everything in a line, but plain text."""
    return [kind for token in READER.parse(markdown) for kind in (token.type, *map(_kind, token.children or []))]


def _kind(token: Token) -> str:
    return token.type if token.type != "text" else ""


def plain(text: str) -> str:
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", " ", text).split(" ")).strip()


def text_of(markdown: str) -> str:
    return "".join(child.content for token in READER.parse(markdown) for child in token.children or [])


@given(
    st.one_of(st.text(), st.lists(st.sampled_from(MARKS)).map("".join), st.lists(st.sampled_from(MARKS)).map(" ".join))
)
def test_any_text_stays_text(text: str) -> None:
    escaped = escape_markdown(text)
    for before, after in (("x ", ""), ("- x ", ""), ("# x ", " x"), ("| a |\n|---|\n| x ", " |"), ("**x ", " x**")):
        assert shape(f"{before}{escaped}{after}") == shape(f"{before}word{after}")
    words = " ".join(plain(text).split())
    assert " ".join(text_of(f"x {escaped}").split()) == f"x {words}".strip()


@given(
    st.one_of(st.text(), st.lists(st.sampled_from(MARKS)).map("".join), st.lists(st.sampled_from(MARKS)).map(" ".join))
)
def test_a_text_that_begins_a_line_begins_nothing_else(text: str) -> None:
    if plain(text):
        assert shape(escape_markdown(text)) == shape("word")
        assert shape(f"- {escape_markdown(text)}") == shape("- word")


@given(st.lists(st.sampled_from(MARKS), min_size=1).map("".join))
def test_code_is_shown_as_it_is(text: str) -> None:
    if plain(text):
        assert shape(f"x {code_span(text)} y") == shape("x `word` y")
        assert shape(f"| a |\n|---|\n| {code_span(text, in_table=True)} |") == shape("| a |\n|---|\n| `word` |")


def test_only_the_web_is_linked() -> None:
    assert autolink("https://llama.meta.com/x") == "<https://llama.meta.com/x>"
    assert shape(autolink("javascript:alert(1)")) == shape("word")
    assert shape(autolink("https://x> [y](z)")) == shape("word")


def test_what_a_template_is_given_is_escaped_unless_it_is_markdown(tmp_path: Path) -> None:
    (tmp_path / "a.md.jinja").write_text("{{ text }} {{ text | code }} {{ text | label }}")
    page = load_template(tmp_path / "a.md.jinja").render(text="a*b")
    assert page == r"a\*b `a*b` a\*b"


def test_no_name_and_no_reason_is_markup_in_a_card(run: Path) -> None:
    """A card of texts that try everything has the blocks of a card of plain words."""
    expected = card_of(run, "word word")
    evil = card_of(run, EVIL)
    assert shape(evil) == shape(expected)
    assert text_of(evil).count("onerror=alert(1)") == text_of(expected).count("word word") >= 10
    assert "<img" not in READER.render(evil) and "<script" not in READER.render(evil)


def card_of(run: Path, text: str) -> str:
    """The body of the card of a run whose recipe and figures have `text` wherever nothing checks what it is."""
    sources = (
        Source(path=Path(f"{text}.jsonl".replace("/", " ")), style=text),
        Source(
            per_tool=1,
            synthesize=Synthesis(
                provider="x", model=text, budget_usd=1, usd_per_million_input=0, usd_per_million_output=0
            ),
        ),
    )
    recipe = load_recipe(ROOT / "configs/recipes/demo.yaml")
    data = recipe.data.model_copy(update={"sources": sources, "tools": Path(text.replace("/", " "))})
    changes = {"base": f"some/{text}", "revision": text, "data": data}
    (run / "recipe.json").write_text(recipe.model_copy(update=changes).model_dump_json())
    manifest = run / "evaluate/manifest.json"
    evaluated = json.loads(manifest.read_text())
    evaluated.pop("checksum", None)
    evaluated["metrics"]["gate"] |= {"reasons": [text], "unmet": [text], "outcome": text}
    for row in evaluated["metrics"]["scoreboard"]:
        row["suite"] = text
    manifest.write_text(json.dumps(evaluated))
    return write_card(run)[0].read_text().split("---\n", 2)[2]


def test_a_cards_metadata_is_one_block_of_yaml(run: Path) -> None:
    head, _ = of(run, f"x/{EVIL}")
    assert head["base_model"] == f"x/{EVIL}"
    assert yaml.safe_load(yaml.safe_dump(head)) == head


def test_a_files_name_is_no_line_of_the_recipe(tmp_path: Path) -> None:
    rows = tmp_path / "a\nbase: evil\n#.jsonl"
    rows.write_text('{"prompt": "x", "completion": "y"}\n')
    write_starter_recipe(tmp_path, tmp_path / "out/recipe.yaml")
    text = (tmp_path / "out/recipe.yaml").read_text()
    assert yaml.safe_load(text)["base"] == "tiny" and not re.search(r"^base: evil", text, re.M)
