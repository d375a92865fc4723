"""Sessions and apps: created by `modal run`, published by `modal deploy`, listed, stopped, their logs read."""

import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2 as pb

from rehearsal.errors import not_found
from rehearsal.objects import App, Container, Function
from rehearsal.part import Part

IMAGE_BUILDER = "2025.06"
"""The image builder version that modal 1.6 asks for (modal.com/docs/guide/images)."""


class Apps(Part):
    """RPCs of apps."""

    async def ClientHello(self, request: Any, container: str | None) -> pb.ClientHelloResponse:
        return pb.ClientHelloResponse(image_builder_version=IMAGE_BUILDER)

    async def EnvironmentGetOrCreate(self, request: Any, container: str | None) -> pb.EnvironmentGetOrCreateResponse:
        settings = pb.EnvironmentSettings(image_builder_version=IMAGE_BUILDER)
        metadata = pb.EnvironmentMetadata(name=request.deployment_name or "main", settings=settings)
        return pb.EnvironmentGetOrCreateResponse(environment_id="en-1", metadata=metadata)

    async def AuthTokenGet(self, request: Any, container: str | None) -> pb.AuthTokenGetResponse:
        """A JWT whose expiry the client reads; nobody checks its signature here."""
        claims = {"exp": int(time.time()) + 3600}
        parts = [
            base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in ({"alg": "none"}, claims)
        ]
        return pb.AuthTokenGetResponse(token=".".join([*parts, "x"]))

    async def AppCreate(self, request: Any, container: str | None) -> pb.AppCreateResponse:
        app = self._new_app(request.description, request.app_state)
        return pb.AppCreateResponse(app_id=app.id, app_page_url=f"{self.address}/apps/{app.id}")

    async def AppGetByDeploymentName(self, request: Any, container: str | None) -> pb.AppGetByDeploymentNameResponse:
        return pb.AppGetByDeploymentNameResponse(app_id=self.state.named.get(("app", request.name), ""))

    async def AppGetOrCreate(self, request: Any, container: str | None) -> pb.AppGetOrCreateResponse:
        key = ("app", request.app_name)
        if key not in self.state.named:
            self.state.named[key] = self._new_app(request.app_name, pb.APP_STATE_UNSPECIFIED).id
        return pb.AppGetOrCreateResponse(app_id=self.state.named[key])

    async def AppGetLayout(self, request: Any, container: str | None) -> pb.AppGetLayoutResponse:
        return pb.AppGetLayoutResponse(app_layout=self.layout(self.state.apps[request.app_id]))

    async def AppPublish(self, request: Any, container: str | None) -> pb.AppPublishResponse:
        app = self.state.apps[request.app_id]
        app.functions, app.classes, app.state = dict(request.function_ids), dict(request.class_ids), request.app_state
        if request.name:
            self.state.named["app", request.name] = app.id
        return pb.AppPublishResponse(url=f"{self.address}/apps/{app.id}", deployed_at=time.time())

    async def AppList(self, request: Any, container: str | None) -> pb.AppListResponse:
        items = [
            pb.AppListResponse.AppListItem(app_id=a.id, description=a.name, name=a.name, state=a.state)
            for a in self.state.apps.values()
        ]
        return pb.AppListResponse(apps=items)

    async def AppHeartbeat(self, request: Any, container: str | None) -> Empty:
        return Empty()

    async def AppClientDisconnect(self, request: Any, container: str | None) -> Empty:
        """An app of `modal run` ends with its client, unless it is detached (modal.com/docs/guide/apps)."""
        app = self.state.apps[request.app_id]
        if app.state not in (pb.APP_STATE_DEPLOYED, pb.APP_STATE_DETACHED):
            await self.stop_app(app)
        return Empty()

    async def AppStop(self, request: Any, container: str | None) -> Empty:
        await self.stop_app(self.state.apps[request.app_id])
        return Empty()

    async def AppGetLogs(self, request: Any, container: str | None) -> AsyncIterator[pb.TaskLogsBatch]:
        """Logs from an entry on, for `timeout` seconds; the last message of an app that ended says so."""
        app = self.state.apps.get(request.app_id)
        if app is None:
            raise not_found(f"app {request.app_id}")
        at = int(request.last_entry_id.split("-")[0] or 0) if request.last_entry_id else 0
        end = time.time() + (request.timeout or 0.01)
        while True:
            while at < len(app.logs):
                batch = pb.TaskLogsBatch()
                batch.CopyFrom(app.logs[at])
                at += 1
                batch.entry_id = f"{at}-0"
                yield batch
            if app.done:
                yield pb.TaskLogsBatch(app_done=True)
                return
            if (left := end - time.time()) <= 0:
                return
            here = at
            await self.state.wait_for(lambda here=here: len(app.logs) > here or app.done, left)

    def layout(self, app: App) -> pb.AppLayout:
        """What a container must know of its app: its functions, classes, and what they depend on."""
        state = self.state
        objects = [
            pb.Object(object_id=f, function_handle_metadata=state.functions[f].handle) for f in app.functions.values()
        ]
        objects += [
            pb.Object(object_id=c, class_handle_metadata=pb.ClassHandleMetadata()) for c in app.classes.values()
        ]
        mine = [f for f in state.functions.values() if f.app is app and f.declared]
        needed = sorted({dependency.object_id for f in mine for dependency in f.spec.object_dependencies})
        for object_id in needed:
            volume = state.volumes.get(object_id)
            objects.append(pb.Object(object_id=object_id, volume_metadata=volume.metadata if volume else None))
        return pb.AppLayout(objects=objects, function_ids=app.functions, class_ids=app.classes)

    def find(self, app_name: str, tag: str) -> Function:
        """A function of a deployed app."""
        app = self.state.apps.get(self.state.named.get(("app", app_name), ""))
        if app is None:
            raise not_found(f"App '{app_name}' not found in environment 'main'")
        if tag not in app.functions:
            raise not_found(f"Function '{tag}' not found in app '{app_name}'")
        return self.state.functions[app.functions[tag]]

    async def log(self, container: Container, text: str, channel: Any) -> None:
        line = pb.TaskLogs(data=text, timestamp=time.time(), file_descriptor=channel)
        batch = pb.TaskLogsBatch(task_id=container.id, function_id=container.function.id, items=[line])
        container.function.app.logs.append(batch)
        await self.state.tell()

    async def stop_app(self, app: App) -> None:
        for container in [c for c in self.state.containers.values() if c.function.app is app and c.alive]:
            await self.kill(container, "app stopped")
        app.done, app.state = True, pb.APP_STATE_STOPPED
        await self.state.tell()

    def _new_app(self, name: str, app_state: Any) -> App:
        app = App(self.state.new_id("ap"), name, app_state)
        self.state.apps[app.id] = app
        return app
