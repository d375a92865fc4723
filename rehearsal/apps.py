"""Sessions and apps: created by `modal run`, published by `modal deploy`, listed, stopped."""

import base64
import json
import time
from typing import Any

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2 as pb

from tuneline.rehearsal.errors import not_found
from tuneline.rehearsal.objects import App, Function
from tuneline.rehearsal.part import Part
from tuneline.rehearsal.saved import save

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
        """The app deployed under a name; failing that the one last stopped, whose logs may still be read."""
        app_id, stopped = self.state.named.get(("app", request.name), ""), ""
        if not app_id:
            gone = [a.id for a in self.state.apps.values() if a.name == request.name and a.stopped]
            stopped = gone[-1] if gone else ""
        known = self.state.apps.get(app_id or stopped)
        return pb.AppGetByDeploymentNameResponse(
            app_id=app_id,
            previous_app_id=stopped,
            environment_name="main",
            lifecycle=_lifecycle(known) if known else None,
        )

    async def AppGetLifecycle(self, request: Any, container: str | None) -> pb.AppGetLifecycleResponse:
        if request.app_id not in self.state.apps:
            raise not_found(f"App '{request.app_id}' not found")
        return pb.AppGetLifecycleResponse(lifecycle=_lifecycle(self.state.apps[request.app_id]))

    async def AppDeploymentHistory(self, request: Any, container: str | None) -> pb.AppDeploymentHistoryResponse:
        """modal.com/docs/reference/cli/app: versions count from 1, the newest serves."""
        app = self.state.apps[request.app_id]
        told = [
            pb.AppDeploymentHistory(app_id=app.id, version=number, deployed_at=moment, deployed_by="rehearsal")
            for number, moment in reversed(list(enumerate(app.versions, 1)))
        ]
        return pb.AppDeploymentHistoryResponse(app_deployment_histories=told, production_app_version=len(told))

    async def TaskList(self, request: Any, container: str | None) -> pb.TaskListResponse:
        """Containers that live (`modal container list`)."""
        tasks = [
            pb.TaskStats(
                task_id=c.id,
                app_id=c.function.app.id,
                app_description=c.function.app.name,
                started_at=c.began,
                enqueued_at=c.began,
            )
            for c in self.state.containers.values()
            if c.alive and request.app_id in ("", c.function.app.id)
        ]
        return pb.TaskListResponse(tasks=tasks)

    async def AppGetOrCreate(self, request: Any, container: str | None) -> pb.AppGetOrCreateResponse:
        key = ("app", request.app_name)
        if key not in self.state.named:
            if request.object_creation_type == pb.OBJECT_CREATION_TYPE_UNSPECIFIED:
                raise not_found(f"App '{request.app_name}' not found in environment 'main'")
            self.state.named[key] = self._new_app(request.app_name, pb.APP_STATE_UNSPECIFIED).id
        return pb.AppGetOrCreateResponse(app_id=self.state.named[key])

    async def AppGetLayout(self, request: Any, container: str | None) -> pb.AppGetLayoutResponse:
        return pb.AppGetLayoutResponse(app_layout=self.layout(self.state.apps[request.app_id]))

    async def AppPublish(self, request: Any, container: str | None) -> pb.AppPublishResponse:
        app = self.state.apps[request.app_id]
        app.functions, app.classes, app.state = dict(request.function_ids), dict(request.class_ids), request.app_state
        if request.name:
            self.state.named["app", request.name] = app.id
            app.versions.append(time.time())
            save(self.state)
        return pb.AppPublishResponse(url=f"{self.address}/apps/{app.id}", deployed_at=time.time())

    async def AppList(self, request: Any, container: str | None) -> pb.AppListResponse:
        living = [c.function.app.id for c in self.state.containers.values() if c.alive]
        items = [
            pb.AppListResponse.AppListItem(
                app_id=app.id,
                description=app.name,
                name=app.name,
                state=app.state,
                created_at=app.created,
                stopped_at=app.stopped,
                n_running_tasks=living.count(app.id),
            )
            for app in self.state.apps.values()
        ]
        return pb.AppListResponse(apps=items)

    async def AppHeartbeat(self, request: Any, container: str | None) -> Empty:
        return Empty()

    async def AppClientDisconnect(self, request: Any, container: str | None) -> Empty:
        """An app of `modal run` ends with its client; a detached one with its last call (modal.com/docs/guide/apps)."""
        app = self.state.apps[request.app_id]
        if app.state == pb.APP_STATE_DETACHED:
            app.state = pb.APP_STATE_DETACHED_DISCONNECTED
            self.later(0, self._end_with_last_call(app))
        elif app.state != pb.APP_STATE_DEPLOYED:
            await self.stop_app(app)
        return Empty()

    async def _end_with_last_call(self, app: App) -> None:
        def idle() -> bool:
            mine = [one for one in self.state.inputs.values() if one.call.function.app is app]
            return app.done or all(one.done for one in mine)

        while not await self.state.wait_for(idle, 60):
            pass
        if not app.done:
            await self.stop_app(app)

    async def AppStop(self, request: Any, container: str | None) -> Empty:
        await self.stop_app(self.state.apps[request.app_id])
        save(self.state)
        return Empty()

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

    async def stop_app(self, app: App) -> None:
        for container in [c for c in self.state.containers.values() if c.function.app is app and c.alive]:
            await self.kill(container, "app stopped")
        app.done, app.state, app.stopped = True, pb.APP_STATE_STOPPED, time.time()
        self.state.named = {k: i for k, i in self.state.named.items() if not (k[0] == "app" and i == app.id)}
        self.state.tell()

    def _new_app(self, name: str, app_state: Any) -> App:
        app = App(self.state.new_id("ap"), name, app_state)
        self.state.apps[app.id] = app
        return app


def _lifecycle(app: App) -> pb.AppLifecycle:
    return pb.AppLifecycle(
        app_state=app.state,
        created_at=app.created,
        deployed_at=app.versions[-1] if app.versions else 0,
        version=len(app.versions),
        stopped_at=app.stopped,
    )
