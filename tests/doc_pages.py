"""README and docs as tests read them: the commands and the YAML of each page, and which commands are run where."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tuneline.core.paths import ROOT

PAGES = (ROOT / "README.md", *sorted(file for file in (ROOT / "docs").glob("*.md") if file.stem != "log"))
PROGRAMS = (
    "tuneline", "modal", "make", "python", "bash", "pip", "source", "export", "install", "curl", "hf", "ollama",
    "torchrun", "inspect", "mkdir", "[A-Z_]+=\\S+ tuneline", "TORCH_INDEX=\\S+", "TUNELINE_\\w+=",
)  # fmt: skip
COMMAND = re.compile(rf"(?:{'|'.join(PROGRAMS)})(?:\s|$|\S*)")

LONG = {
    r"tuneline (run|train|convert|evaluate|preflight|sweep|demo) (?!.*--dry-run)": "trains",
    r"(TUNELINE_API_KEY=\S+ )?tuneline (serve|chat|gateway)\b": "starts a server, or needs one",
    r"curl http://127\.0\.0\.1:8080": "needs the gateway",
    r"tuneline rehearse\b": "simulates Modal",
}
"""Commands that take long, run by `test_long_commands` in `make test-all`; each with the reason."""
OUTSIDE = {
    r"make\b|TORCH_INDEX=": "sets up an environment: continuous integration runs it",
    r"modal\b|tuneline deploy|tuneline .*--modal": "needs a Modal account; tests/rehearsal runs these offline",
    r"hf |ollama |curl ": "another program, or a network",
    r"pip install|python -m (spacy|tuneline|tests)|install -m|source ": "changes the environment",
    r"mkdir ": "another program",
    r"export ": "sets a variable to the reader's own key",
    r"bash images/box\.sh|torchrun|TUNELINE_TORCHRUN": "needs other machines",
    r"TUNELINE_LIVE=1|inspect eval": "needs an account, or an extra",
    r"python benchmarks/": "takes minutes: `make bench`",
    r"tuneline models (download (llama|smollm2)|fit --here|import)": "downloads a base from the hub",
    r"tuneline .*https://you|tuneline chat https://": "needs the reader's own endpoint or account",
    r"tuneline .*\$TUNELINE_BASE_URL": "needs the reader's own endpoint",
    r"tuneline (tools|assistant)\b|[A-Z_]+=\S+ tuneline assistant": "tests/unit/test_assistant_docs.py runs them",
    r"tuneline load http": "needs a server",
    r"tuneline runs resume": "tests/unit/test_run_commands.py runs it",
    r"tuneline rehearse --build": "tests/rehearsal/test_image_builds.py builds images",
    r"tuneline ui\b": "serves until Ctrl-C; tests/ui drives it in a browser",
    r"tuneline publish (?!.*--dry-run)": "needs an account; tests/unit/test_publish*.py run them",
}
"""Commands that no test runs, each with the reason; the files of the repository that they name must exist."""


@dataclass(frozen=True)
class Command:
    page: str
    text: str
    """Without the prompt and the comment after it."""

    def matches(self, patterns: dict[str, str]) -> bool:
        return any(re.match(pattern, self.text) for pattern in patterns)


def read_commands(page: Path) -> Iterator[Command]:
    """Yield the commands of a page in their order: lines of code blocks that begin with the name of a program."""
    for line in _read_code(page.read_text(encoding="utf-8")):
        if COMMAND.match(line):
            yield Command(page.name, re.split(r"\s{2,}#|\s#\s", line)[0].strip())


def _read_code(text: str) -> Iterator[str]:
    """Yield the lines of indented blocks and of ```sh, without their indent; a line that ends in \\ goes on."""
    fence, held = "", ""
    for line in text.splitlines():
        if line.startswith("```"):
            fence = "" if fence else line.removeprefix("```") or "text"
        elif (not fence and line.startswith("    ")) or fence == "sh":
            held += line.strip()
            if held.endswith("\\"):
                held = held.removesuffix("\\")
                continue
            yield held
            held = ""


def read_yaml_blocks(page: Path) -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)
