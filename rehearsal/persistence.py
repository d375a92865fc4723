"""What outlives a control plane: deployed apps, what they refer to, dicts and queues, in one JSON file.

Volumes and named secrets are files of their own beside it. Calls and apps of `modal run` end with the control plane.
"""

import base64
import itertools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from modal_proto import api_pb2 as pb

from tuneline.core.files import write_atomic
from tuneline.rehearsal.state import App, Function, State, Volume

FILE = "plane.json"
MAX_LOG_ENTRIES = 2_000
"""Log entries saved for each app."""


def save_state(state: State) -> None:
    """Write the state atomically; readable by the user alone, because it holds the secrets of deployed apps."""
    apps = [app for app in state.apps.values() if app.state in (pb.APP_STATE_DEPLOYED, pb.APP_STATE_STOPPED)]
    record = {
        "counts": {prefix: next(count) for prefix, count in state.counts.items()},
        "named": [[*key, object_id] for key, object_id in state.ids.items() if key[0] != "bound"],
        "apps": [_app_record(app) for app in apps],
        "functions": [
            _function_record(f) for app in apps for i in app.functions.values() if (f := state.functions[i]).declared
        ],
        "images": {image_id: _serialize(image) for image_id, image in state.images.items()},
        "mounts": {mount_id: [_serialize(file) for file in files] for mount_id, files in state.mounts.items()},
        "secrets": state.secrets,
        "secret_names": state.secret_names,
        "volumes": [[v.id, v.name, v.metadata.version] for v in state.volumes.values()],
        "dicts": {i: [[_encode(k), _encode(v)] for k, v in entries.items()] for i, entries in state.dicts.items()},
        "queues": {
            i: [[_encode(key), entry, _encode(value)] for key, items in parts.items() for entry, value in items]
            for i, parts in state.queues.items()
        },
    }
    write_atomic(state.folder / FILE, json.dumps(record), private=True)


def load_state(state: State) -> None:
    """Load what an earlier control plane saved in this folder, if anything."""
    file = state.folder / FILE
    if not file.exists():
        return
    record = json.loads(file.read_text())
    state.counts.update({prefix: itertools.count(count) for prefix, count in record["counts"].items()})
    state.ids.update({tuple(key): object_id for *key, object_id in record["named"]})
    for app in record["apps"]:
        logs = [_parse(pb.TaskLogsBatch, entry) for entry in app.pop("logs")]
        state.apps[app["id"]] = App(**app, logs=logs)
    for function in record["functions"]:
        _restore_function(state, function)
    state.images.update({i: _parse(pb.Image, text) for i, text in record["images"].items()})
    state.mounts.update({i: [_parse(pb.MountFile, t) for t in files] for i, files in record["mounts"].items()})
    state.secrets.update(record["secrets"])
    state.secret_names.update(record["secret_names"])
    for volume_id, name, version in record["volumes"]:
        metadata = pb.VolumeMetadata(version=version, name=name)
        state.volumes[volume_id] = Volume(volume_id, name, _make_folder(state.folder / "volumes" / name), metadata)
    state.dicts.update({i: {_decode(k): _decode(v) for k, v in entries} for i, entries in record["dicts"].items()})
    for queue_id, items in record["queues"].items():
        state.queues[queue_id] = defaultdict(list)
        for key, entry, value in items:
            state.queues[queue_id][_decode(key)].append((entry, _decode(value)))


def _app_record(app: App) -> dict[str, Any]:
    fields = ("id", "name", "state", "functions", "classes", "done", "created", "stopped", "versions")
    return {key: getattr(app, key) for key in fields} | {
        "logs": [_serialize(entry) for entry in app.logs[-MAX_LOG_ENTRIES:]]
    }


def _function_record(function: Function) -> dict[str, Any]:
    return {
        "id": function.id,
        "app": function.app.id,
        "name": function.name,
        "handle": _serialize(function.handle),
        "declared": _serialize(function.spec),
        "data": _serialize(function.data or pb.FunctionData()),
        "endpoints": list(function.urls),
    }


def _restore_function(state: State, record: dict[str, Any]) -> None:
    handle = _parse(pb.FunctionHandleMetadata, record["handle"])
    function = Function(record["id"], state.apps[record["app"]], record["name"], handle)
    function.declared = _parse(pb.Function, record["declared"])
    function.data = _parse(pb.FunctionData, record["data"])
    function.urls = dict.fromkeys(record["endpoints"], "")  # the next control plane assigns new addresses
    state.functions[function.id] = function


def _make_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text)


def _serialize(message: Message) -> str:
    return _encode(message.SerializeToString())


def _parse(kind: Any, text: str) -> Any:
    return kind.FromString(_decode(text))
