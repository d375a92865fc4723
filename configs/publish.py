"""`publish` in a recipe: where the finished model goes, one section a target.

A target with nothing to state may be published to without a section. No key is ever in one: keys are read from the
environment. Publishing changes no artifact, so nothing here is in a fingerprint.
"""

from typing import Literal

from pydantic import Field

from tuneline.configs.section import Section

Form = Literal["adapter", "merged", "gguf"]
GgufType = Literal["F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0"]


class Hub(Section):
    """A repository on the Hugging Face Hub: files with the model card, licence and notice."""

    repository: str | None = Field(None, pattern=r"^[\w.-]+/[\w.-]+$")
    """`you/name`; required to publish."""
    forms: tuple[Form, ...] = ("adapter", "gguf")
    """What is uploaded: the adapter, the merged checkpoint, the GGUF files."""
    private: bool = True
    """Whether only you and your organization see it."""


class S3(Section):
    """A bucket, or any folder that fsspec reaches: `s3://bucket/path`, `gs://…`, `abfs://…`, `file:///path`."""

    url: str = Field(pattern=r"^[a-z][a-z0-9+]*://[^?#@]+$")
    """The folder; credentials are read from the environment, never from here."""
    forms: tuple[Form, ...] = ("adapter", "gguf")
    """What is uploaded: the adapter, the merged checkpoint, the GGUF files."""


class Ollama(Section):
    """A model of an Ollama server, on this machine or at `OLLAMA_HOST`."""

    model: str | None = Field(None, pattern=r"^[a-z0-9][\w.:/-]*$")
    """Its name there; the run's by default."""
    type: GgufType | None = None
    """Which GGUF file; `serve.type` by default."""


class Deployment(Section):
    """Hardware of your own at a host, which costs money while it runs; publishing then requires `--yes`."""

    gpu: str
    """Kind of GPU, as the host names it."""
    gpus: int = Field(1, gt=0)
    """Most of them; the host is asked before anything starts."""
    usd_per_gpu_hour: float | None = Field(None, gt=0)
    """Price of an hour of one; that of `configs/hosts.yaml` by default."""
    idle_minutes: int = Field(30, ge=5, le=1440)
    """Minutes without a request after which it stops by itself."""


class Fireworks(Section):
    """An adapter at Fireworks AI; it answers on a deployment alone."""

    account: str | None = None
    """Your account's id; `FIREWORKS_ACCOUNT_ID` by default."""
    model: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9-]*$")
    """Its id there; the run's name by default."""
    base: str | None = None
    """The base there, as in `accounts/fireworks/models/NAME`; that of `configs/hosts.yaml` by default."""
    deployment: Deployment | None = None
    """Hardware that serves it; without it the model is uploaded alone, at no cost."""


class Together(Section):
    """An adapter at Together AI, which fetches it from the hub or from S3; it answers on a deployment alone."""

    project: str | None = None
    """Your project's id; `TOGETHER_PROJECT_ID` by default."""
    model: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9-]*$")
    """Its name there; the run's by default."""
    base: str | None = None
    """The base there, as `GET /v2/supported-models` names it; the hub id by default."""
    source: Literal["hub", "s3"] = "hub"
    """Where Together fetches the adapter: the repository of `publish.hub`, or an archive below `publish.s3.url`."""
    config: str | None = None
    """Configuration of the deployment, `projects/…/configs/…`; the only one of the base by default."""
    deployment: Deployment | None = None
    """Hardware that serves it; without it the model is uploaded alone, at no cost."""


class Groq(Section):
    """An adapter at Groq, for enterprise accounts alone."""

    tier: Literal["enterprise", "other"] = "other"
    """Your account's; Groq serves adapters of enterprise accounts that it has opened the interface for."""
    model: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9-]*$")
    """Its name there; the run's by default."""
    base: str | None = None
    """The base there, as `llama-3.1-8b-instant`; that of `configs/hosts.yaml` by default."""


class Nebius(Section):
    """An adapter at Nebius Token Factory, served without hardware of your own and billed by tokens."""

    project: str | None = None
    """A project of your account; the default one by default."""
    model: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9-]*$")
    """Its name there; the run's by default."""
    base: str | None = None
    """The base there; that of `configs/hosts.yaml` by default."""


class Wandb(Section):
    """An adapter as an artifact of Weights & Biases, served by its inference service and billed by tokens."""

    team: str | None = None
    """Your team; required to publish."""
    project: str = "tuneline"
    """The project of the artifact, which pays for its answers."""
    model: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9-]*$")
    """The artifact's name; the run's by default."""
    base: str | None = None
    """The base there; that of `configs/hosts.yaml` by default."""


class Server(Section):
    """How a model is served by containers of your own."""

    form: Form | None = None
    """gguf: llama.cpp on CPU cores. adapter and merged: vLLM on GPUs. `serve.form` by default."""
    type: GgufType | None = None
    """Which GGUF file; `serve.type` by default."""
    gpus: int = Field(1, gt=0, le=16)
    """GPUs of a container with vLLM."""
    cores: int = Field(4, gt=0, le=256)
    """CPU cores of a container."""
    memory_gib: int = Field(16, gt=0, le=4096)
    """Memory of a container."""
    slots: int = Field(4, gt=0, le=256)
    """Requests that llama.cpp answers at a time, each with the whole context."""
    image: str | None = Field(None, pattern=r"^[\w./:@-]+$")
    """Image of the server; that of `publish/containers.py` by default."""


class Kubernetes(Server):
    """Files for a cluster, whose pods fetch the model from the repository of `publish.hub`."""

    namespace: str = Field("default", pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
    """Where everything is created."""
    secret: str = Field("tuneline", pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")
    """A Secret of yours with HF_TOKEN, which reads the repository, and API_KEY, which clients send."""
    least: int = Field(1, gt=0)
    """Fewest pods."""
    most: int = Field(3, gt=0)
    """Most pods."""
    waiting: int = Field(4, gt=0)
    """Requests that wait in a pod, on average, above which there is another pod; with llama.cpp its CPU decides."""


class Compose(Server):
    """Files for Docker Compose on this machine: the model, the gateway, Prometheus and Grafana."""

    port: int = Field(8080, gt=0, lt=65536)
    """The gateway's, on loopback; Prometheus and Grafana are on 9090 and 3000."""


class Runpod(Section):
    """A serverless endpoint at RunPod, with its worker for vLLM, which costs money while a worker runs."""

    form: Literal["adapter", "merged"] | None = None
    """What is served, from the repository of `publish.hub`; `serve.form` by default, adapter if that is gguf."""
    image: str | None = Field(None, pattern=r"^[\w./:@-]+$")
    """The worker, `runpod/worker-v1-vllm:VERSION`, of a release at github.com/runpod-workers/worker-vllm; required."""
    pool: str = Field("ADA_48_PRO", pattern=r"^[A-Z0-9_]+$")
    """RunPod's pool of GPUs."""
    gpus: int = Field(1, gt=0, le=8)
    """GPUs of a worker."""
    workers: int = Field(1, gt=0, le=100)
    """Most workers; there is none while nobody asks."""
    idle_seconds: int = Field(30, ge=1, le=3600)
    """Seconds after the last request until a worker stops."""
    disk_gb: int = Field(100, gt=0, le=1000)
    """Disk of a worker, for the model."""
    secret: str | None = Field("hf_token", pattern=r"^\w+$")
    """A secret of your RunPod account with a token that reads the repository; null where it is public."""
    usd_per_gpu_hour: float | None = Field(None, gt=0)
    """Price of an hour of one GPU at runpod.io/pricing; required to publish, so that a bound can be stated."""


class Space(Section):
    """A Hugging Face Space with a chat page, which asks a server of yours."""

    repository: str | None = Field(None, pattern=r"^[\w.-]+/[\w.-]+$")
    """`you/name`; required to publish."""
    url: str | None = Field(None, pattern=r"^https?://[^\s@]+$")
    """Address of the server that answers, with `/v1`; required to publish. Its key is the Space's secret API_KEY."""
    model: str | None = None
    """The model's name there; the run's by default."""
    private: bool = True
    """Whether only you and your organization see it."""


class Publish(Section):
    """Where the finished model goes; `tuneline publish RUN --to TARGET` reads it."""

    hub: Hub | None = None
    s3: S3 | None = None
    ollama: Ollama | None = None
    fireworks: Fireworks | None = None
    together: Together | None = None
    groq: Groq | None = None
    nebius: Nebius | None = None
    wandb: Wandb | None = None
    kubernetes: Kubernetes | None = None
    compose: Compose | None = None
    space: Space | None = None
    runpod: Runpod | None = None


def list_targets(publish: Publish) -> list[str]:
    """Return the targets that a recipe has a section for."""
    return [name for name in Publish.model_fields if getattr(publish, name) is not None]
