"""Targets that write files: Kubernetes' own schemas, vLLM's and llama.cpp's own parsers, and the gateway's settings."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests.environments import DEPLOY
from tests.published_runs import make_published_run, make_recipe
from tests.runs import MICRO, make_again
from tuneline.cli import app
from tuneline.configs.gateway import parse_gateway
from tuneline.configs.hosts import find_obstacles, refuse_unpublishable
from tuneline.core.errors import BadRecipe
from tuneline.core.package_locks import read_locked_versions
from tuneline.core.paths import ROOT
from tuneline.engines.vllm.vllm_server import EXECUTABLE
from tuneline.publish.command import open_publication, plan_steps, publish_run, withdraw_run
from tuneline.rehearsal.image_builds.programs import PARSE_ARGUMENTS

HUB = {"hub": {"repository": "you/demo"}}
TEMPLATE = "{{ messages }} <|python_tag|>"


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNS", "MODELS"):
        monkeypatch.setenv(f"TUNELINE_{name}", str(tmp_path / name.lower()))


def make(folder: Path, target: str, **settings: Any) -> dict[str, str]:
    """The files of a target, by name; the run has a chat template of its own."""
    run = make_published_run(folder / "runs/My.Demo", HUB | {target: settings})
    (run / "prepare/chat_template.jinja").write_text(TEMPLATE)
    for stage in ("prepare", "train", "convert", "evaluate"):
        make_again(run, stage)
    publish_run(open_publication(run, target), print)
    return {file.name: file.read_text() for file in (run / "publish" / target).iterdir()}


def by_kind(manifests: str) -> dict[str, Any]:
    return {part["kind"]: part for part in yaml.safe_load_all(manifests)}


def test_kubernetes_serves_an_adapter_by_vllm(tmp_path: Path) -> None:
    files = make(tmp_path, "kubernetes", form="adapter", gpus=2, namespace="llm", most=5, waiting=7)
    parts = by_kind(files["tuneline.yaml"])
    pod = parts["Deployment"]["spec"]["template"]
    [container] = pod["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    arguments = container["args"]
    assert arguments[arguments.index("--lora-modules") + 1] == "my-demo=you/demo"
    assert arguments[arguments.index("--max-lora-rank") + 1] == "8"
    assert parts["ConfigMap"]["data"] == {"chat_template.jinja": TEMPLATE}
    assert arguments[arguments.index("--chat-template") + 1] == "/etc/tuneline/chat_template.jinja"
    keys = {entry["name"]: entry.get("valueFrom", {}).get("secretKeyRef") for entry in container["env"]}
    assert keys["VLLM_API_KEY"] == {"name": "tuneline", "key": "API_KEY"}
    assert {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")} == {
        "/health"
    }
    scaler = parts["HorizontalPodAutoscaler"]["spec"]
    [rule] = yaml.safe_load(files["prometheus-adapter.yaml"])["rules"]["custom"]
    assert scaler["metrics"][0]["pods"]["metric"]["name"] == rule["name"]["as"]
    assert scaler["metrics"][0]["pods"]["target"]["averageValue"] == "7" and scaler["maxReplicas"] == 5
    assert parts["Service"]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()


def test_kubernetes_serves_a_gguf_on_cpu_cores(tmp_path: Path) -> None:
    files = make(tmp_path, "kubernetes", form="gguf", type="F16", cores=6, slots=3)
    parts = by_kind(files["tuneline.yaml"])
    [container] = parts["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["args"][:4] == ["--hf-repo", "you/demo", "--hf-file", "tuned-F16.gguf"]
    assert "nvidia.com/gpu" not in container["resources"]["limits"] and "prometheus-adapter.yaml" not in files
    assert parts["HorizontalPodAutoscaler"]["spec"]["metrics"][0]["resource"]["name"] == "cpu"


@pytest.mark.parametrize("form", ["adapter", "gguf"])
def test_kubernetes_own_schemas_take_the_manifests(form: str, tmp_path: Path) -> None:
    files = make(tmp_path, "kubernetes", form=form)
    (tmp_path / "manifests.yaml").write_text(files["tuneline.yaml"])
    script = (
        "import sys, yaml, kubernetes_validate\n"
        "parts = list(yaml.safe_load_all(open(sys.argv[1])))\n"
        "for part in parts: kubernetes_validate.validate(part, '1.32', strict=True)\n"
        "print(len(parts))"
    )
    done = subprocess.run(
        [deploy_python(), "-c", script, str(tmp_path / "manifests.yaml")], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == ("4" if form == "adapter" else "3"), done.stderr[-2000:]


def deploy_python() -> str:
    if DEPLOY not in os.environ:
        pytest.skip(f"{DEPLOY} does not name a Python with kubernetes-validate and gradio: make test-all")
    return os.environ[DEPLOY]


def test_what_cannot_be_served_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    run = make_published_run(tmp_path / "runs/demo", {})
    with pytest.raises(BadRecipe, match=r"publish.hub.repository: required: pods fetch the model there"):
        plan_steps(open_publication(run, "kubernetes"))
    with pytest.raises(BadRecipe, match="namespace"):
        open_publication(run, "kubernetes", ["publish.kubernetes.namespace=a;b"])
    with pytest.raises(BadRecipe, match="image"):
        open_publication(run, "compose", ["publish.compose.image=x\nprivileged: true"])
    (run / "prepare/stop_token_ids.json").write_text("[7]")
    for stage in ("prepare", "train", "convert", "evaluate"):
        make_again(run, stage)
    with pytest.raises(BadRecipe, match="publish it merged or as gguf"):
        plan_steps(open_publication(run, "compose", ["publish.compose.form=adapter"]))
    assert not (run / "publish").exists()


def test_what_is_not_made_is_said_before_training() -> None:
    publish = {
        "kubernetes": {"form": "merged"},
        "compose": {"form": "gguf", "type": "Q8_0"},
        "runpod": {"form": "adapter"},
    }
    train = MICRO.train.model_copy(update={"modules_to_save": ("head",)})
    recipe = make_recipe(publish, train=train)
    said = {target: "\n".join(find_obstacles(recipe, target)) for target in publish}
    assert "publish.kubernetes.form: merged: write `convert: {format: safetensors}`" in said["kubernetes"]
    assert "publish.compose.type: Q8_0: not among convert.types, F16, Q4_K_M" in said["compose"]
    assert "publish.runpod.form: adapter: vLLM serves none with train.modules_to_save" in said["runpod"]
    with pytest.raises(BadRecipe, match="publish it merged"):
        refuse_unpublishable(recipe)


def test_compose_joins_model_gateway_prometheus_and_grafana(tmp_path: Path) -> None:
    files = make(tmp_path, "compose", form="gguf", cores=2)
    services = yaml.safe_load(files["compose.yaml"])["services"]
    assert services.keys() == {"model", "gateway", "prometheus", "grafana"}
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        for mount in (text for text in service["volumes"] if text.startswith("./")):
            assert mount.split(":")[0].removeprefix("./") in files, mount
    [model] = services["model"]["volumes"]
    assert Path(model.split(":")[0]).read_text("utf-8") == "My.Demo tuned-Q4_K_M" and model.endswith(
        ":/models/model.gguf:ro"
    )
    settings = parse_gateway(files["gateway.yaml"], Path("gateway.yaml"))
    [target] = [route.baseline for route in settings.models.values()]
    alias = services["model"]["command"][services["model"]["command"].index("--alias") + 1]
    assert (target.url, target.model) == ("http://model:8000/v1", alias)
    assert json.loads(files["tuneline.json"])["uid"] == "tuneline-gateway"
    for image_file in re.findall(r"^COPY (\S+)", files["gateway.Dockerfile"], re.M):
        assert (ROOT / image_file).exists(), image_file
    for secret in re.findall(r"credentials_file: /run/secrets/(\w+)", files["prometheus.yml"]):
        assert secret in services["prometheus"]["secrets"]


def test_the_gateways_image_has_every_package_that_it_imports() -> None:
    script = (
        "import json, sys; before = set(sys.modules)\n"
        "import uvicorn, uvloop, httptools\n"
        "from tuneline.cli.commands import gateway\nfrom tuneline.endpoints.engine_pool import EnginePool\n"
        "from tuneline.endpoints.gateway.app import Gateway, build_app\n"
        "from tuneline.endpoints.gateway.settings_file import SettingsFile\nimport tuneline.cli.commands.keys\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in set(sys.modules) - before})))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    names, locked = packages_distributions(), read_locked_versions(ROOT / "requirements/compose.txt")
    optional = {"tuneline", "python-multipart", "watchfiles"}  # the latter two are used where they are installed
    needed = {
        names[module][0].lower().replace("_", "-") for module in json.loads(done.stdout) if module in names
    } - optional
    assert len(needed) > 15 and needed <= locked.keys(), needed - locked.keys()
    folders = set(
        re.findall(r'"(\w+)"', (ROOT / "publish/compose.py").read_text().partition("GATEWAY_FOLDERS = ")[2][:200])
    )
    code = "import sys, tuneline.cli, tuneline.endpoints.gateway.app; print(*sorted(m for m in sys.modules))"
    ours = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {name.split(".")[1] for name in ours if name.startswith("tuneline.")} <= folders


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_vllms_own_parser_takes_every_argument(form: str, tmp_path: Path) -> None:
    if EXECUTABLE not in os.environ:
        pytest.skip(f"{EXECUTABLE} does not name vLLM: make test-all")
    run = make_published_run(tmp_path / "runs/demo", HUB, convert=_with_merged())
    texts = {
        step.key: step.body
        for step in plan_steps(open_publication(run, "kubernetes", [f"publish.kubernetes.form={form}"]))
    }
    [container] = by_kind(texts["tuneline.yaml"])["Deployment"]["spec"]["template"]["spec"]["containers"]
    command = [str(Path(os.environ[EXECUTABLE]).with_name("python")), "-c", PARSE_ARGUMENTS]
    for more, code in (([], 0), (["--no-such-option"], 2)):
        request = json.dumps(["serve", *container["args"], *more])
        done = subprocess.run(command, input=request, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr[-2000:]


def _with_merged() -> Any:
    return MICRO.convert.model_copy(update={"format": "safetensors"})


def test_files_are_printed_written_again_and_taken_back(tmp_path: Path) -> None:
    files = make(tmp_path, "compose", form="gguf")
    run = tmp_path / "runs/My.Demo"
    folder = run / "publish/compose"
    (folder / "gateway.yaml").write_text("changed")
    publish_run(open_publication(run, "compose"), print)
    assert (folder / "gateway.yaml").read_text() == files["gateway.yaml"]
    printed = CliRunner(env={"COLUMNS": "400"}).invoke(app, ["publish", "My.Demo", "--to", "compose", "--dry-run"])
    assert "compose.yaml" in printed.output and "GRAFANA_PASSWORD" in printed.output
    withdraw_run(open_publication(run, "compose"), print)
    assert not list(folder.iterdir())
