"""Client sessions and apps: created by `modal run`, published by `modal deploy`, listed, stopped."""

import base64
import json
import time
from typing import Any

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2 as pb

from tuneline.rehearsal.component import Component
from tuneline.rehearsal.errors import not_found
from tuneline.rehearsal.persistence import save_state
from tuneline.rehearsal.state import App, Function

IMAGE_BUILDERS = ("2026.10", "2025.06")
"""Image builder versions, the newest first; a workspace has one (modal/builder/base-images.json of client 1.6)."""


class Apps(Component):
    """RPCs of apps."""

    async def ClientHello(self, request: Any, container_id: str | None) -> pb.ClientHelloResponse:
        return pb.ClientHelloResponse(image_builder_version=self.image_builder)

    async def EnvironmentGetOrCreate(self, request: Any, container_id: str | None) -> pb.EnvironmentGetOrCreateResponse:
        settings = pb.EnvironmentSettings(image_builder_version=self.image_builder)
        metadata = pb.EnvironmentMetadata(name=request.deployment_name or "main", settings=settings)
        return pb.EnvironmentGetOrCreateResponse(environment_id="en-1", metadata=metadata)

    async def AuthTokenGet(self, request: Any, container_id: str | None) -> pb.AuthTokenGetResponse:
        """Return a JWT whose expiry the client reads; its signature is not checked here."""
        claims = {"exp": int(time.time()) + 3600}
        parts = [
            base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
            for part in ({"alg": "none"}, claims)
        ]
        return pb.AuthTokenGetResponse(token=".".join([*parts, "x"]))

    async def AppCreate(self, request: Any, container_id: str | None) -> pb.AppCreateResponse:
        app = self._new_app(request.description, request.app_state)
        return pb.AppCreateResponse(app_id=app.id, app_page_url=f"{self.address}/apps/{app.id}")

    async def AppGetByDeploymentName(self, request: Any, container_id: str | None) -> pb.AppGetByDeploymentNameResponse:
        """Return the app deployed under a name, else the one last stopped, whose logs can still be read."""
        app_id, stopped_id = self.state.ids.get(("app", request.name), ""), ""
        if not app_id:
            stopped_ids = [a.id for a in self.state.apps.values() if a.name == request.name and a.stopped]
            stopped_id = stopped_ids[-1] if stopped_ids else ""
        app = self.state.apps.get(app_id or stopped_id)
        return pb.AppGetByDeploymentNameResponse(
            app_id=app_id,
            previous_app_id=stopped_id,
            environment_name="main",
            lifecycle=_lifecycle(app) if app else None,
        )

    async def AppGetLifecycle(self, request: Any, container_id: str | None) -> pb.AppGetLifecycleResponse:
        if request.app_id not in self.state.apps:
            raise not_found(f"App '{request.app_id}' not found")
        return pb.AppGetLifecycleResponse(lifecycle=_lifecycle(self.state.apps[request.app_id]))

    async def AppDeploymentHistory(self, request: Any, container_id: str | None) -> pb.AppDeploymentHistoryResponse:
        """modal.com/docs/reference/cli/app: versions count from 1, the newest serves."""
        app = self.state.apps[request.app_id]
        deployments = [
            pb.AppDeploymentHistory(app_id=app.id, version=number, deployed_at=moment, deployed_by="rehearsal")
            for number, moment in reversed(list(enumerate(app.versions, 1)))
        ]
        return pb.AppDeploymentHistoryResponse(
            app_deployment_histories=deployments, production_app_version=len(deployments)
        )

    async def TaskList(self, request: Any, container_id: str | None) -> pb.TaskListResponse:
        """Return the running containers (`modal container list`)."""
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

    async def AppGetOrCreate(self, request: Any, container_id: str | None) -> pb.AppGetOrCreateResponse:
        key = ("app", request.app_name)
        if key not in self.state.ids:
            if request.object_creation_type == pb.OBJECT_CREATION_TYPE_UNSPECIFIED:
                raise not_found(f"App '{request.app_name}' not found in environment 'main'")
            self.state.ids[key] = self._new_app(request.app_name, pb.APP_STATE_UNSPECIFIED).id
        return pb.AppGetOrCreateResponse(app_id=self.state.ids[key])

    async def AppGetLayout(self, request: Any, container_id: str | None) -> pb.AppGetLayoutResponse:
        return pb.AppGetLayoutResponse(app_layout=self.app_layout(self.state.apps[request.app_id]))

    async def AppPublish(self, request: Any, container_id: str | None) -> pb.AppPublishResponse:
        app = self.state.apps[request.app_id]
        app.functions, app.classes, app.state = dict(request.function_ids), dict(request.class_ids), request.app_state
        if request.name:
            self.state.ids["app", request.name] = app.id
            app.versions.append(time.time())
            save_state(self.state)
        return pb.AppPublishResponse(url=f"{self.address}/apps/{app.id}", deployed_at=time.time())

    async def AppList(self, request: Any, container_id: str | None) -> pb.AppListResponse:
        app_ids_of_containers = [c.function.app.id for c in self.state.containers.values() if c.alive]
        items = [
            pb.AppListResponse.AppListItem(
                app_id=app.id,
                description=app.name,
                name=app.name,
                state=app.state,
                created_at=app.created,
                stopped_at=app.stopped,
                n_running_tasks=app_ids_of_containers.count(app.id),
            )
            for app in self.state.apps.values()
        ]
        return pb.AppListResponse(apps=items)

    async def AppHeartbeat(self, request: Any, container_id: str | None) -> Empty:
        return Empty()

    async def AppClientDisconnect(self, request: Any, container_id: str | None) -> Empty:
        """An app of `modal run` ends with its client; a detached one with its last call (modal.com/docs/guide/apps)."""
        app = self.state.apps[request.app_id]
        if app.state == pb.APP_STATE_DETACHED:
            app.state = pb.APP_STATE_DETACHED_DISCONNECTED
            self.schedule(0, self._end_with_last_call(app))
        elif app.state != pb.APP_STATE_DEPLOYED:
            await self.end_app(app)
        return Empty()

    async def _end_with_last_call(self, app: App) -> None:
        def idle() -> bool:
            inputs = [i for i in self.state.inputs.values() if i.call.function.app is app]
            return app.done or all(i.done for i in inputs)

        while not await self.state.wait_for(idle, 60):
            pass
        if not app.done:
            await self.end_app(app)

    async def AppStop(self, request: Any, container_id: str | None) -> Empty:
        await self.end_app(self.state.apps[request.app_id])
        save_state(self.state)
        return Empty()

    def app_layout(self, app: App) -> pb.AppLayout:
        """Return what a container needs to know of its app: its functions, its classes, and what they depend on."""
        state = self.state
        objects = [
            pb.Object(object_id=f, function_handle_metadata=state.functions[f].handle) for f in app.functions.values()
        ]
        objects += [
            pb.Object(object_id=c, class_handle_metadata=pb.ClassHandleMetadata()) for c in app.classes.values()
        ]
        functions = [f for f in state.functions.values() if f.app is app and f.declared]
        dependency_ids = sorted({dependency.object_id for f in functions for dependency in f.spec.object_dependencies})
        for object_id in dependency_ids:
            volume = state.volumes.get(object_id)
            objects.append(pb.Object(object_id=object_id, volume_metadata=volume.metadata if volume else None))
        return pb.AppLayout(objects=objects, function_ids=app.functions, class_ids=app.classes)

    def find_function(self, app_name: str, tag: str) -> Function:
        """Return a function of a deployed app.

        Raises:
            GRPCError: NOT_FOUND.
        """
        app = self.state.apps.get(self.state.ids.get(("app", app_name), ""))
        if app is None:
            raise not_found(f"App '{app_name}' not found in environment 'main'")
        if tag not in app.functions:
            raise not_found(f"Function '{tag}' not found in app '{app_name}'")
        return self.state.functions[app.functions[tag]]

    async def end_app(self, app: App) -> None:
        for container in [c for c in self.state.containers.values() if c.function.app is app and c.alive]:
            await self.kill(container, "app stopped")
        app.done, app.state, app.stopped = True, pb.APP_STATE_STOPPED, time.time()
        self.state.ids = {k: i for k, i in self.state.ids.items() if not (k[0] == "app" and i == app.id)}
        self.state.notify()

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
