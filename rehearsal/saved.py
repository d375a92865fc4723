"""What outlives a plane: deployed apps, what they refer to, dicts and queues, in one JSON file of the state folder.

Volumes and named secrets are files of their own beside it. Calls and runs of `modal run` end with their plane.
"""

import base64
import itertools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from modal_proto import api_pb2 as pb

from tuneline.rehearsal.objects import App, Function, State, Volume

FILE = "plane.json"
LOGS_KEPT = 2_000
"""Entries of an app's log."""


def save(state: State) -> None:
    """Write it all, at once; for the user alone to read, as secrets of deployed apps are in it."""
    kept = [app for app in state.apps.values() if app.state in (pb.APP_STATE_DEPLOYED, pb.APP_STATE_STOPPED)]
    told = {
        "counts": {prefix: next(count) for prefix, count in state.counts.items()},
        "named": [[*key, object_id] for key, object_id in state.named.items() if key[0] != "bound"],
        "apps": [_app(app) for app in kept],
        "functions": [
            _function(f) for app in kept for i in app.functions.values() if (f := state.functions[i]).declared
        ],
        "images": {image_id: _text(image) for image_id, image in state.images.items()},
        "mounts": {mount_id: [_text(file) for file in files] for mount_id, files in state.mounts.items()},
        "secrets": state.secrets,
        "secret_names": state.secret_names,
        "volumes": [[v.id, v.name, v.metadata.version] for v in state.volumes.values()],
        "dicts": {i: [[_encoded(k), _encoded(v)] for k, v in entries.items()] for i, entries in state.dicts.items()},
        "queues": {
            i: [[_encoded(key), entry, _encoded(value)] for key, items in parts.items() for entry, value in items]
            for i, parts in state.queues.items()
        },
    }
    passing = state.folder / f"{FILE}.~"
    passing.touch(mode=0o600)
    passing.write_text(json.dumps(told))
    passing.replace(state.folder / FILE)


def load(state: State) -> None:
    """What an earlier plane saved in this folder, if one did."""
    file = state.folder / FILE
    if not file.exists():
        return
    told = json.loads(file.read_text())
    state.counts.update({prefix: itertools.count(count) for prefix, count in told["counts"].items()})
    state.named.update({tuple(key): object_id for *key, object_id in told["named"]})
    for app in told["apps"]:
        logs = [_message(pb.TaskLogsBatch, entry) for entry in app.pop("logs")]
        state.apps[app["id"]] = App(**app, logs=logs)
    for one in told["functions"]:
        _restore(state, one)
    state.images.update({i: _message(pb.Image, text) for i, text in told["images"].items()})
    state.mounts.update({i: [_message(pb.MountFile, t) for t in files] for i, files in told["mounts"].items()})
    state.secrets.update(told["secrets"])
    state.secret_names.update(told["secret_names"])
    for volume_id, name, version in told["volumes"]:
        metadata = pb.VolumeMetadata(version=version, name=name)
        state.volumes[volume_id] = Volume(volume_id, name, _existing(state.folder / "volumes" / name), metadata)
    state.dicts.update({i: {_decoded(k): _decoded(v) for k, v in entries} for i, entries in told["dicts"].items()})
    for queue_id, items in told["queues"].items():
        state.queues[queue_id] = defaultdict(list)
        for key, entry, value in items:
            state.queues[queue_id][_decoded(key)].append((entry, _decoded(value)))


def _app(app: App) -> dict[str, Any]:
    kept = ("id", "name", "state", "functions", "classes", "done", "created", "stopped", "versions")
    return {key: getattr(app, key) for key in kept} | {"logs": [_text(entry) for entry in app.logs[-LOGS_KEPT:]]}


def _function(function: Function) -> dict[str, Any]:
    return {
        "id": function.id,
        "app": function.app.id,
        "name": function.name,
        "handle": _text(function.handle),
        "declared": _text(function.spec),
        "data": _text(function.data or pb.FunctionData()),
        "endpoints": list(function.urls),
    }


def _restore(state: State, told: dict[str, Any]) -> None:
    handle = _message(pb.FunctionHandleMetadata, told["handle"])
    function = Function(told["id"], state.apps[told["app"]], told["name"], handle)
    function.declared = _message(pb.Function, told["declared"])
    function.data = _message(pb.FunctionData, told["data"])
    function.urls = dict.fromkeys(told["endpoints"], "")  # the next plane gives new addresses
    state.functions[function.id] = function


def _existing(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decoded(text: str) -> bytes:
    return base64.b64decode(text)


def _text(message: Message) -> str:
    return _encoded(message.SerializeToString())


def _message(kind: Any, text: str) -> Any:
    return kind.FromString(_decoded(text))
