"""Tools from where people have them: OpenAPI, MCP, OpenAI's lists, Python functions; and a check of the outcome."""

import asyncio
from pathlib import Path
from typing import Any

import yaml

from tuneline.configs.catalogue import Catalogue, load_catalogue
from tuneline.configs.yaml_loader import read_yaml
from tuneline.core.errors import BadData, BadRequest, StageFailed
from tuneline.core.files import write_atomic
from tuneline.core.redaction import redact_url
from tuneline.core.user_files import read_json
from tuneline.core.web_requests import open_url
from tuneline.stages.tool_import.imported import ImportedTools
from tuneline.stages.tool_import.mcp_servers import import_mcp_tools, is_mcp_source
from tuneline.stages.tool_import.openapi import Api, is_document, load_document, parse_document, read_api
from tuneline.stages.tool_import.python_functions import import_functions, import_module

MAX_DOCUMENT_BYTES = 64 << 20
DOWNLOAD_TIMEOUT_S = 30.0


def import_tools(source: str) -> ImportedTools:
    """Return the tools of a source: a file (OpenAPI, a list of OpenAI's or MCP's), the address of an OpenAPI document,
    an MCP server (`mcp:ADDRESS`, `mcp:COMMAND`), or a Python module.

    Raises:
        NotFound: no such file, address or module. BadData: what is there describes no tools.
        StageFailed: no server answers. BadRequest: the client of MCP is not installed.
    """
    try:
        if is_mcp_source(source):
            return asyncio.run(import_mcp_tools(source))
        if api := load_api(source):
            return api.to_tools()
        if is_data_file(source):
            return ImportedTools(load_catalogue(Path(source)))
        return import_functions(import_module(source))
    except ValueError as error:
        raise error if isinstance(error, BadData | BadRequest) else BadData(f"{source}: {error}") from None


def load_api(source: str) -> Api | None:
    """Return the API that a file or an address describes by OpenAPI; None if the source is something else.

    Raises:
        BadData: it is OpenAPI, and cannot be read. StageFailed: the address does not answer.
    """
    if source.startswith(("http://", "https://")):
        return read_api(parse_document(_download(source), redact_url(source)), redact_url(source))
    file = Path(source)
    if not is_data_file(source) or not is_document(_read(file)):
        return None
    return read_api(load_document(file), source)


def is_data_file(source: str) -> bool:
    """Return whether a source is a JSON or YAML file, by its name."""
    return source.endswith((".json", ".yaml", ".yml"))


def write_catalogue(catalogue: Catalogue, file: Path) -> None:
    """Write a catalogue as YAML.

    Raises:
        BadRequest: the file is there already: it may have phrases that somebody wrote.
    """
    if file.exists():
        raise BadRequest(f"{file}: is there already; give another name with --to")
    file.parent.mkdir(parents=True, exist_ok=True)
    tools: dict[str, Any] = {name: tool.model_dump() for name, tool in catalogue.tools.items()}
    write_atomic(file, yaml.dump({"tools": tools}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """A schema that two tools share is written twice: people edit the file."""
        return True


def _read(file: Path) -> Any:
    return read_json(file, BadData) if file.suffix == ".json" else read_yaml(file, BadData)


def _download(url: str) -> str:
    try:
        with open_url(url, timeout_s=DOWNLOAD_TIMEOUT_S) as response:
            content = response.read(MAX_DOCUMENT_BYTES + 1)
        if len(content) > MAX_DOCUMENT_BYTES:
            raise BadData(f"{redact_url(url)}: larger than {MAX_DOCUMENT_BYTES >> 20} MiB")
        return content.decode("utf-8")
    except OSError as error:
        raise StageFailed(f"{redact_url(url)}: cannot be read: {error}") from None
    except UnicodeDecodeError:
        raise BadData(f"{redact_url(url)}: not UTF-8") from None
