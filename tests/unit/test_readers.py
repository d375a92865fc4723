"""Every module that parses files is tried on damaged files, or is listed here with whose files it reads."""

import ast
from functools import cache

import pytest

from tests.bad_files.registry import READERS, STATE_READERS
from tuneline.core.paths import ROOT

PACKAGES = ("cli", "configs", "core", "endpoints", "engines", "images", "publish", "stages", "volumes")
PARSERS = frozenset(
    (
        *("loads", "load", "safe_load", "literal_eval", "raw_decode", "unpack", "unpack_from"),
        *("model_validate_json", "validate_json", "parse_json", "parse_exact", "read_json", "read_yaml", "parse_yaml"),
        *("from_file", "from_pretrained", "safe_open", "load_file", "GGUFReader", "ZipFile"),
        *("ParquetFile", "read_table", "open_stream", "load_workbook", "reader", "DictReader"),
    )
)
"""Names of functions that make values of bytes or text: of json, orjson, yaml, ast, struct, pydantic, safetensors,
tokenizers, transformers, pyarrow, openpyxl, csv, zipfile, and ours."""

FORMATS = "stages.prepare.formats"
FILES_OF_OTHERS = {
    "the limits themselves, used by the readers": ("core.user_files", "core.exact_json", "core.python_literals"),
    "values in rows, which the data readers read": (
        *(f"{FORMATS}.{name}" for name in ("call_text", "conversations", "json_values", "layouts", "reading")),
        *(f"{FORMATS}.{name}" for name in ("tool_datasets", "tool_lists", "transcripts", "turns", "source_files")),
        *("stages.prepare.checks.row_checks", "stages.prepare.checks.toolbox", "stages.prepare.rows"),
        *("stages.prepare.rendering.lost_content", "stages.prepare.rendering.renderer"),
    ),
    "tools from elsewhere, fuzzed in tests/unit/test_tool_import.py": (
        *("stages.tool_import", "stages.tool_import.openapi"),
    ),
    "a base that `fetch` has checked": (
        *("stages.checkpoints.base_config", "stages.checkpoints.base_tokenizer", "stages.checkpoints.fused_experts"),
        *("engines.vllm.tool_parsers", "stages.convert.onepass.converter", "stages.convert.onepass.merged_checkpoint"),
        *("stages.convert.reference_model", "stages.convert.verification.tokenizer_checks"),
        *("stages.evaluate.suites.run_context", "stages.fetch.bases", "stages.fetch.local_bases"),
        *("stages.fetch.model_files", "stages.fetch.model_store", "stages.prepare.rendering.stop_tokens"),
        *("stages.prepare.rendering.word_cache", "stages.train.model.base_model", "stages.train.model.llama4_experts"),
    ),
    "ids of unfinished uploads: a damaged file begins a new one": ("publish.storage",),
    "read by `models import` in a child process, whose end is an error of ours": ("stages.fetch.import_worker",),
    "an artifact of a run, whose hashes its manifest has": (
        *(
            "publish.adapters",
            "engines.vllm.lora_ranks",
            "stages.convert.onepass.importance_matrix",
            "stages.convert.ollama.modelfile",
            "stages.convert.onepass.one_pass",
        ),
        *("stages.evaluate.suites.style_classifier", "stages.evaluate.suites.training_pairs"),
        *("stages.evaluate.verdicts.service_demands", "stages.evaluate.verdicts.task_verdicts"),
        *("stages.prepare.prepared_run", "stages.prepare.rendering.tool_preselector", "endpoints.tool_selection"),
        *("stages.prepare.checks.overlap", "stages.report.sections.external_evidence"),
        *("stages.report.sections.verification", "stages.train.loop.adapter_files", "stages.train.loop.checkpoints"),
        *("stages.train.model.adapter_weights", "endpoints.scheduled_evaluation"),
    ),
    "state beside runs, damaged in tests/line/test_damaged_runs.py and the gateway's own tests": (
        "stages.runs.summary",
        *("core.events", "core.jsonl", "core.manifest", "core.pins", "core.spending", "core.tracking"),
        *("endpoints.policy", "endpoints.prompts", "core.attention_kernels"),
        *("engines.control_tokens", "engines.llama_cpp.gguf_metadata"),
        *("endpoints.request_log.*", "endpoints.traffic.*"),
    ),
    "a table that is shipped, or a file of a package": (
        *("configs.models", "configs.recipe_settings", "stages.prepare.synthesis.catalogue_language"),
        *("stages.prepare.checks.presidio", "publish.compose"),
    ),
    "what one process of ours tells another": (
        *("core.child_processes", "stages.convert", "stages.convert.worker", "stages.stage_process"),
        *("stages.convert.folders.compressor", "stages.convert.folders.onnx", "stages.convert.folders.onnx_exporter"),
        *("stages.evaluate.clients.lm_eval_tasks", "stages.evaluate.load_testing.guidellm"),
        *("stages.train.distributed.placement", "stages.train.job"),
        *("stages.train.launcher", "volumes.*", "stages.exchange.export.unsloth_script"),
    ),
    "what servers and clients send, and options of commands": (
        *("cli.*", "endpoints.assistant.*", "endpoints.gateway.*", "endpoints.engine_api", "endpoints.remote_engines"),
        *("endpoints.run_server",),
        *("engines.listed_models", "engines.tool_calls", "stages.convert.verification.template_checks"),
        *("stages.prepare.synthesis.llm_writer",),
    ),
}
"""Modules and packages that parse, by whose files or messages they are."""
LISTED = {f"tuneline.{module}" for modules in FILES_OF_OTHERS.values() for module in modules}
REGISTERED = {module for reader in (*READERS.values(), *STATE_READERS.values()) for module in reader.modules}


@cache
def parsing_modules() -> frozenset[str]:
    """Return the modules in which one of `PARSERS` is called."""
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    names = {file: file.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__") for file in files}
    return frozenset("tuneline." + names[file].replace("/", ".") for file in files if _parses(file.read_text("utf-8")))


def _parses(source: str) -> bool:
    called = (node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    names = (f.attr if isinstance(f, ast.Attribute) else f.id if isinstance(f, ast.Name) else "" for f in called)
    return not PARSERS.isdisjoint(names)


def _covers(name: str, module: str) -> bool:
    return module.startswith(name.removesuffix("*")) if name.endswith("*") else module == name


def test_every_module_that_parses_is_tried_on_damaged_files_or_listed() -> None:
    missing = sorted(module for module in parsing_modules() - REGISTERED if not any(_covers(n, module) for n in LISTED))
    assert not missing, "a reader of users' files belongs in tests/bad_files/registry.py, another in FILES_OF_OTHERS"


def test_what_is_registered_is_there() -> None:
    for module in REGISTERED:
        place = ROOT / module.removeprefix("tuneline.").replace(".", "/")
        assert place.with_suffix(".py").exists() or (place / "__init__.py").exists(), module


@pytest.mark.parametrize("call", ["json.loads(x)", "read_json(x)", "Row.model_validate_json(x)", "pq.ParquetFile(x)"])
def test_a_call_of_a_parser_is_seen(call: str) -> None:
    assert _parses(f"def f(x):\n    return [{call}]\n") and not _parses("print(1)")
