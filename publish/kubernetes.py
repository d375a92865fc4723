"""Target `kubernetes`: a Deployment of vLLM or llama.cpp with Service, probes and autoscaler, as files to apply.

Pods fetch the model from the repository of `publish.hub`. The autoscaler counts requests that wait in vLLM, which the
Prometheus adapter has to show to Kubernetes: its rule is written too. Keys are in a Secret of the user's, by name.
https://kubernetes.io/docs/reference/kubernetes-api/ (1.32) and https://github.com/kubernetes-sigs/prometheus-adapter.
"""

from collections.abc import Sequence
from typing import Any

import yaml

from tuneline.core.errors import BadRecipe
from tuneline.publish.containers import (
    FILES_FOLDER,
    PORT,
    ContainerServer,
    Location,
    describe_server,
    gguf_name,
    model_name,
)
from tuneline.publish.target import Publication, Step, Values
from tuneline.publish.written_files import removal_steps, write_steps

MANIFESTS, ADAPTER_RULES = "tuneline.yaml", "prometheus-adapter.yaml"
METRIC = "vllm_num_requests_waiting"
"""The queue of a pod, as the autoscaler asks for it; Prometheus has it as `vllm:num_requests_waiting`."""
CPU_PERCENT = 80
START_MINUTES = 30
"""Longest start of a pod: it downloads the model."""
HOME = "/home/tuneline"


def steps(publication: Publication) -> Sequence[Step]:
    """Return the writing of the manifests, and of the adapter's rule where vLLM serves.

    Raises:
        BadRecipe: `publish.hub.repository` is missing, or `least` is above `most`.
    """
    server = describe_server(publication, _location(publication))
    if publication.settings.least > publication.settings.most:
        raise BadRecipe(f"publish.kubernetes.least: {publication.settings.least}: above `most`")
    manifests = yaml.safe_dump_all(_manifests(publication, server), sort_keys=False, allow_unicode=True)
    files = {MANIFESTS: _header(publication) + manifests}
    if server.engine == "vllm":
        files[ADAPTER_RULES] = yaml.safe_dump(_adapter_rules(), sort_keys=False)
    return write_steps(publication, files)


def undo_steps(publication: Publication, values: Values) -> Sequence[Step]:
    """Return the removal of the files; what was applied is deleted by `kubectl delete -f` before."""
    return removal_steps(values)


def _header(publication: Publication) -> str:
    secret, namespace = publication.settings.secret, publication.settings.namespace
    return (
        f"# kubectl -n {namespace} create secret generic {secret} --from-literal=HF_TOKEN=… --from-literal=API_KEY=…\n"
        f"# kubectl apply -f {MANIFESTS}\n"
    )


def _location(publication: Publication) -> Location:
    hub = publication.recipe.publish.hub
    if hub is None or not hub.repository:
        raise BadRecipe("publish.hub.repository: required: pods fetch the model there; publish it with --to hub first")
    base, revision = publication.recipe.base, publication.recipe.revision
    return Location(
        base=[base, *(("--revision", revision) if revision else ())],
        adapter=hub.repository,
        merged=hub.repository,
        gguf=["--hf-repo", hub.repository, "--hf-file", gguf_name(publication)],
    )


def _manifests(publication: Publication, server: ContainerServer) -> list[dict[str, Any]]:
    parts = [
        _object(publication, "v1", "Service", {"selector": _labels(publication), "ports": [_service_port()]}),
        _object(publication, "apps/v1", "Deployment", _deployment(publication, server)),
        _object(publication, "autoscaling/v2", "HorizontalPodAutoscaler", _autoscaler(publication, server)),
    ]
    if server.files:
        config = _object(publication, "v1", "ConfigMap", {})
        config.pop("spec")
        parts.insert(0, config | {"data": server.files})
    return parts


def _object(publication: Publication, version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    name = model_name(publication)
    metadata = {"name": name, "namespace": publication.settings.namespace, "labels": _labels(publication)}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def _labels(publication: Publication) -> dict[str, str]:
    return {"app.kubernetes.io/name": model_name(publication), "app.kubernetes.io/managed-by": "tuneline"}


def _service_port() -> dict[str, Any]:
    return {"name": "http", "port": 80, "targetPort": "http"}


def _deployment(publication: Publication, server: ContainerServer) -> dict[str, Any]:
    scraped = {"prometheus.io/scrape": "true", "prometheus.io/port": str(PORT), "prometheus.io/path": "/metrics"}
    volumes: list[dict[str, Any]] = [{"name": "home", "emptyDir": {}}]
    if server.engine == "vllm":
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory"}})
    if server.files:
        volumes.append({"name": "files", "configMap": {"name": model_name(publication)}})
    pod = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 120,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_container(publication, server)],
        "volumes": volumes,
    }
    return {
        "replicas": publication.settings.least,
        "selector": {"matchLabels": _labels(publication)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "progressDeadlineSeconds": 60 * (START_MINUTES + 5),
        "template": {"metadata": {"labels": _labels(publication), "annotations": scraped}, "spec": pod},
    }


def _container(publication: Publication, server: ContainerServer) -> dict[str, Any]:
    health = {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 10, "timeoutSeconds": 5}
    mounts = [{"name": "home", "mountPath": HOME}]
    if server.engine == "vllm":
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    if server.files:
        mounts.append({"name": "files", "mountPath": FILES_FOLDER})
    return {
        "name": "server",
        "image": server.image,
        "args": server.arguments,
        "ports": [{"name": "http", "containerPort": PORT}],
        "env": [
            {"name": "HOME", "value": HOME},
            _from_secret(publication, "HF_TOKEN", "HF_TOKEN"),
            _from_secret(publication, server.key_variable, "API_KEY"),
        ],
        "resources": _resources(publication, server),
        "startupProbe": health | {"failureThreshold": 6 * START_MINUTES},
        "readinessProbe": health | {"failureThreshold": 2},
        "livenessProbe": health | {"failureThreshold": 6},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": mounts,
    }


def _from_secret(publication: Publication, variable: str, key: str) -> dict[str, Any]:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": publication.settings.secret, "key": key}}}


def _resources(publication: Publication, server: ContainerServer) -> dict[str, Any]:
    settings = publication.settings
    requests = {"cpu": str(settings.cores), "memory": f"{settings.memory_gib}Gi"}
    limits = {"memory": f"{settings.memory_gib}Gi"}
    if server.engine == "vllm":
        limits["nvidia.com/gpu"] = str(settings.gpus)
    return {"requests": requests, "limits": limits}


def _autoscaler(publication: Publication, server: ContainerServer) -> dict[str, Any]:
    waiting = {"type": "AverageValue", "averageValue": str(publication.settings.waiting)}
    metric: dict[str, Any] = {"type": "Pods", "pods": {"metric": {"name": METRIC}, "target": waiting}}
    if server.engine == "llama.cpp":
        target = {"type": "Utilization", "averageUtilization": CPU_PERCENT}
        metric = {"type": "Resource", "resource": {"name": "cpu", "target": target}}
    return {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": model_name(publication)},
        "minReplicas": publication.settings.least,
        "maxReplicas": publication.settings.most,
        "metrics": [metric],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 600}},
    }


def _adapter_rules() -> dict[str, Any]:
    """Return values of the Prometheus adapter's chart that show vLLM's queue under a name without a colon."""
    resources = {"overrides": {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}}
    rule = {
        "seriesQuery": 'vllm:num_requests_waiting{namespace!="",pod!=""}',
        "resources": resources,
        "name": {"matches": "vllm:num_requests_waiting", "as": METRIC},
        "metricsQuery": "sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)",
    }
    return {"rules": {"custom": [rule]}}
