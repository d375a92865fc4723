"""Target `compose`: the model, Tuneline's gateway, Prometheus and Grafana by Docker Compose, as files to start.

Models are mounted from this machine, read-only. Ports are on loopback. Keys come from the environment, or from `.env`
beside compose.yaml, which is not written here. https://docs.docker.com/reference/compose-file/, read 2026-11-30.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tuneline.core.errors import BadRequest
from tuneline.core.paths import ROOT
from tuneline.publish.containers import (
    FILES_FOLDER,
    PORT,
    ContainerServer,
    Location,
    describe_server,
    form_of,
    gguf_name,
    model_name,
)
from tuneline.publish.target import Publication, Step, Values
from tuneline.publish.written_files import removal_steps, write_steps
from tuneline.stages.fetch.bases import open_base

IMAGES = {"prometheus": "prom/prometheus:v3.5.0", "grafana": "grafana/grafana:12.1.0"}
DASHBOARD = ROOT / "configs/grafana.json"
GATEWAY_FOLDERS = ("cli", "configs", "core", "endpoints", "engines", "publish", "requirements", "stages", "volumes")
"""What the gateway imports; of these the image has a copy as the package `tuneline`."""
NEW_FILES = ("tuneline/__init__.py", "tuneline/__main__.py")


def steps(publication: Publication) -> Sequence[Step]:
    """Return the writing of compose.yaml and of what its services read.

    Raises:
        BadRequest: Tuneline is installed without its checkout. As `describe_server`.
    """
    if not (ROOT / NEW_FILES[0]).exists():
        raise BadRequest(
            f"publish.compose: the gateway's image is built from a checkout, and {ROOT} is an installation"
        )
    server = describe_server(publication, _location())
    texts = {
        "compose.yaml": _header() + _yaml(_services(publication, server)),
        "gateway.Dockerfile": _dockerfile(),
        "gateway.yaml": _yaml(_gateway_settings(publication)),
        "prometheus.yml": _yaml(_prometheus_settings()),
        "grafana-datasource.yml": _yaml(_datasource()),
        "grafana-dashboards.yml": _yaml(_dashboards()),
        "tuneline.json": json.dumps(json.loads(DASHBOARD.read_text("utf-8")), indent=1) + "\n",
    }
    return write_steps(publication, texts | server.files)


def undo_steps(publication: Publication, values: Values) -> Sequence[Step]:
    """Return the removal of the files; what was started is stopped by `docker compose down` before."""
    return removal_steps(values)


def _yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def _header() -> str:
    return (
        "# MODEL_KEY, GATEWAY_KEY and GRAFANA_PASSWORD have to be set, here or in .env beside this file.\n"
        "# docker compose up --detach; then make a key with\n"
        "# docker compose exec gateway python -m tuneline keys add NAME, which is GATEWAY_KEY for Prometheus.\n"
    )


def _location() -> Location:
    return Location(
        base=["/models/base"],
        adapter="/models/adapter",
        merged="/models/merged",
        gguf=["--model", "/models/model.gguf"],
    )


def _model_mounts(publication: Publication) -> list[str]:
    """Return the mounts of the model's files, read-only."""
    run, form = publication.run.absolute(), form_of(publication)
    if form == "gguf":
        places: Mapping[str, Path] = {"model.gguf": run / "convert" / gguf_name(publication)}
    elif form == "merged":
        places = {"merged": run / "convert/merged"}
    else:
        places = {"base": open_base(publication.recipe).path, "adapter": run / "train/adapter"}
    return [f"{place}:/models/{name}:ro" for name, place in places.items()]


def _services(publication: Publication, server: ContainerServer) -> dict[str, Any]:
    gateway = {
        "build": {"context": str(ROOT), "dockerfile": str(publication.folder.absolute() / "gateway.Dockerfile")},
        "command": ["gateway", "/etc/tuneline/gateway.yaml", "--host", "0.0.0.0", "--port", "8080"],
        "environment": {
            "MODEL_KEY": _required("MODEL_KEY"),
            "TUNELINE_POLICY": "/data/policy",
            "TUNELINE_LOGS": "/data/logs",
        },
        "ports": [f"127.0.0.1:{publication.settings.port}:8080"],
        "volumes": ["./gateway.yaml:/etc/tuneline/gateway.yaml:ro", "gateway:/data"],
        "depends_on": {"model": {"condition": "service_healthy"}},
        "restart": "unless-stopped",
    }
    prometheus = {
        "image": IMAGES["prometheus"],
        "ports": ["127.0.0.1:9090:9090"],
        "volumes": ["./prometheus.yml:/etc/prometheus/prometheus.yml:ro", "prometheus:/prometheus"],
        "secrets": ["gateway_key", "model_key"],
        "restart": "unless-stopped",
    }
    grafana = {
        "image": IMAGES["grafana"],
        "environment": {
            "GF_SECURITY_ADMIN_PASSWORD": _required("GRAFANA_PASSWORD"),
            "GF_ANALYTICS_REPORTING_ENABLED": "false",
        },
        "ports": ["127.0.0.1:3000:3000"],
        "volumes": [
            "./grafana-datasource.yml:/etc/grafana/provisioning/datasources/tuneline.yml:ro",
            "./grafana-dashboards.yml:/etc/grafana/provisioning/dashboards/tuneline.yml:ro",
            "./tuneline.json:/var/lib/grafana/dashboards/tuneline.json:ro",
            "grafana:/var/lib/grafana",
        ],
        "restart": "unless-stopped",
    }
    return {
        "name": model_name(publication),
        "services": {
            "model": _model_service(publication, server),
            "gateway": gateway,
            "prometheus": prometheus,
            "grafana": grafana,
        },
        "volumes": {name: {} for name in ("gateway", "prometheus", "grafana")},
        "secrets": {"gateway_key": {"environment": "GATEWAY_KEY"}, "model_key": {"environment": "MODEL_KEY"}},
    }


def _required(variable: str) -> str:
    return f"${{{variable}:?set {variable}}}"


def _model_service(publication: Publication, server: ContainerServer) -> dict[str, Any]:
    mounts = _model_mounts(publication) + [f"./{name}:{FILES_FOLDER}/{name}:ro" for name in server.files]
    probe = f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{PORT}/health', timeout=5)"
    test = ["CMD", "python3", "-c", probe]
    if server.engine == "llama.cpp":
        test = ["CMD", "curl", "--fail", "--silent", f"http://127.0.0.1:{PORT}/health"]
    service: dict[str, Any] = {
        "image": server.image,
        "command": server.arguments,
        "environment": {server.key_variable: _required("MODEL_KEY"), "HF_HUB_OFFLINE": "1"},
        "volumes": mounts,
        "healthcheck": {"test": test, "interval": "10s", "timeout": "6s", "retries": 3, "start_period": "20m"},
        "mem_limit": f"{publication.settings.memory_gib}g",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "restart": "unless-stopped",
    }
    if server.engine == "llama.cpp":
        return service | {"cpus": publication.settings.cores}
    gpus = {"driver": "nvidia", "count": publication.settings.gpus, "capabilities": ["gpu"]}
    return service | {"shm_size": "8gb", "deploy": {"resources": {"reservations": {"devices": [gpus]}}}}


def _dockerfile() -> str:
    """Return the gateway's image: its locked packages, then our folders as the package `tuneline`."""
    copies = "".join(f"COPY {folder} /app/tuneline/{folder}\n" for folder in GATEWAY_FOLDERS)
    files = "".join(f"COPY {file} /app/{file}\n" for file in NEW_FILES)
    return (
        "FROM python:3.12-slim-trixie\n"
        "COPY requirements/compose.txt /tmp/compose.txt\n"
        "RUN pip install --no-cache-dir --no-deps --require-hashes --only-binary :all: -r /tmp/compose.txt\n"
        f"{copies}{files}"
        "RUN useradd --create-home tuneline && mkdir /data && chown tuneline /data\n"
        "USER tuneline\n"
        "WORKDIR /app\n"
        'ENV PYTHONUNBUFFERED=1\nENTRYPOINT ["python", "-m", "tuneline"]\n'
    )


def _gateway_settings(publication: Publication) -> dict[str, Any]:
    name = model_name(publication)
    target = {"url": f"http://model:{PORT}/v1", "model": name, "key_variable": "MODEL_KEY"}
    return {"models": {name: {"baseline": target}}}


def _prometheus_settings() -> dict[str, Any]:
    def job(name: str, address: str, secret: str) -> dict[str, Any]:
        key = {"type": "Bearer", "credentials_file": f"/run/secrets/{secret}"}
        return {"job_name": name, "authorization": key, "static_configs": [{"targets": [address]}]}

    jobs = [job("gateway", "gateway:8080", "gateway_key"), job("model", f"model:{PORT}", "model_key")]
    return {"global": {"scrape_interval": "15s"}, "scrape_configs": jobs}


def _datasource() -> dict[str, Any]:
    source = {"name": "Prometheus", "type": "prometheus", "url": "http://prometheus:9090", "isDefault": True}
    return {"apiVersion": 1, "datasources": [source | {"access": "proxy"}]}


def _dashboards() -> dict[str, Any]:
    options = {"path": "/var/lib/grafana/dashboards"}
    return {"apiVersion": 1, "providers": [{"name": "Tuneline", "type": "file", "options": options}]}
