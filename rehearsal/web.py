"""HTTP: web endpoints of functions, blobs and volume files for the client, and an API that controls the rehearsal."""

import hashlib
import json
import pickle
import time
import urllib.parse
from pathlib import Path
from typing import Any

import grpclib
from aiohttp import web
from aiohttp.typedefs import Handler
from modal_proto import api_pb2 as pb

from tuneline.rehearsal.component import Component
from tuneline.rehearsal.containers import PREEMPTION_GRACE_S
from tuneline.rehearsal.inputs import Result
from tuneline.rehearsal.state import Call, Function
from tuneline.rehearsal.web_sockets import exchange_messages, is_websocket, put_message, read_message

REDIRECT_AFTER_S = 150.0
"""After this, a 303 to an address that waits for the same call (modal.com/docs/guide/webhook-timeouts)."""
CALL_ID = "__modal_function_call_id"
SIGNATURE = "signature"
TRIGGER_TIMEOUT_S = 600
NOT_FORWARDED = (b"transfer-encoding", b"connection")
CONNECT = pb.Asgi(websocket_connect=pb.Asgi.WebsocketConnect())


class Web(Component):
    """HTTP servers of the control plane, on loopback."""

    redirect_after_s = REDIRECT_AFTER_S

    async def serve_http(self, port: int) -> None:
        """Serve the client's uploads and downloads, and the API that controls the rehearsal."""
        app = web.Application(client_max_size=1 << 34, middlewares=[self._authorize])
        app.router.add_put("/blob/{name}", self._put_blob)
        app.router.add_get("/blob/{name}", self._get_blob)
        app.router.add_get("/volume/{id}/{path:.*}", self._get_volume_file)
        app.router.add_get("/rehearsal/apps/{app}", self._get_app)
        app.router.add_post("/rehearsal/trigger/{app}/{function}", self._trigger)
        app.router.add_post("/rehearsal/disturb/{function}", self._plan_failures)
        app.router.add_post("/rehearsal/preempt/{function}", self._preempt)
        app.router.add_post("/rehearsal/volumes/{name}", self._limit_volume)
        self.address = f"http://127.0.0.1:{await self._listen(app, port)}"

    @web.middleware
    async def _authorize(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse who has neither the token, for the rehearsal's own API, nor a signed address, for a file."""
        if request.path.startswith("/rehearsal/"):
            allowed = self.access.is_token(request.headers.get("Authorization", "").removeprefix("Bearer "))
        else:
            allowed = self.access.is_signature(request.query.get(SIGNATURE, ""), request.path)
        return await handler(request) if allowed else web.Response(status=401, text="not with the rehearsal's token")

    def signed_url(self, path: str, **query: int) -> str:
        """Return an address that opens one file without the token, as those of a store of objects do."""
        words = urllib.parse.urlencode(query | {SIGNATURE: self.access.sign(path)})
        return f"{self.address}{urllib.parse.quote(path)}?{words}"

    async def expose_endpoint(self, function: Function, method: str) -> str:
        """Return the address of a web endpoint; each has a server of its own."""
        if not function.urls.get(method):
            app = web.Application(client_max_size=1 << 30)

            async def handle(request: web.Request) -> web.StreamResponse:
                return await self._call_endpoint(function, method, request)

            app.router.add_route("*", "/{path:.*}", handle)
            function.urls[method] = f"http://127.0.0.1:{await self._listen(app, 0)}"
        return function.urls[method]

    async def _call_endpoint(self, function: Function, method: str, request: web.Request) -> web.StreamResponse:
        """Call the function with an ASGI request and stream its response (modal._asgi)."""
        spec = function.spec
        config = spec.method_definitions[method].webhook_config if spec.is_class else spec.webhook_config
        has_token = request.headers.get("Modal-Key") and request.headers.get("Modal-Secret")
        if config.requires_proxy_auth and not has_token:
            return web.Response(status=401, text="modal-http: missing credentials for proxy authorization")
        if earlier_call := self.state.calls.get(request.query.get(CALL_ID, "")):
            return await self._stream_response(earlier_call, request)
        call = self.new_call(function, pb.FUNCTION_CALL_TYPE_UNARY)
        is_socket = is_websocket(request)
        put_message(self.state, call, CONNECT if is_socket else await _read_request(request))
        arguments = pickle.dumps(((_socket_scope(request) if is_socket else _scope(request),), {}), 4)
        message = pb.FunctionInput(data_format=pb.DATA_FORMAT_PICKLE, args=arguments, method_name=method)
        await self.put_input(call, pb.FunctionPutInputsItem(input=message))
        if is_socket:
            return await exchange_messages(self.state, call, request)
        return await self._stream_response(call, request)

    async def _stream_response(self, call: Call, request: web.Request) -> web.StreamResponse:
        """Send the call's output as it arrives; redirect if it takes longer than `redirect_after_s` to start."""
        response: web.StreamResponse | None = None
        position, end = 0, time.monotonic() + self.redirect_after_s
        while response is not None or time.monotonic() < end:
            sent = position
            await self.state.wait_for(lambda sent=sent: len(call.data_out) > sent or call.outputs, 1)
            while position < len(call.data_out):
                message = read_message(self.state, call.data_out[position])
                position += 1
                match message.WhichOneof("type"):
                    case "http_response_start":
                        start = message.http_response_start
                        response = web.StreamResponse(status=start.status)
                        for name, value in zip(start.headers[::2], start.headers[1::2], strict=True):
                            if name.lower() not in NOT_FORWARDED:
                                response.headers.add(name.decode(), value.decode())
                        await response.prepare(request)
                    case "http_response_body" if response is not None:
                        await response.write(message.http_response_body.body)
                        if not message.http_response_body.more_body:
                            await response.write_eof()
                            return response
            if call.outputs and position == len(call.data_out):  # the call ended without the last part of a response
                exception = call.outputs[0].result.exception
                return response or web.Response(status=500, text=f"modal-http: internal error: {exception}")
        return web.Response(status=303, headers={"Location": f"{request.path}?{CALL_ID}={call.id}"})

    async def _put_blob(self, request: web.Request) -> web.Response:
        digest = hashlib.md5(usedforsecurity=False)  # the client checks the ETag, which in S3 is the MD5
        with self._blob(request).open("wb") as file:
            async for chunk in request.content.iter_chunked(1 << 20):
                file.write(chunk)
                digest.update(chunk)
        return web.Response(headers={"ETag": f'"{digest.hexdigest()}"'}, text="ok")

    async def _get_blob(self, request: web.Request) -> web.StreamResponse:
        file = self._blob(request)
        return web.FileResponse(file) if file.exists() else web.Response(status=404)

    def _blob(self, request: web.Request) -> Path:
        return self.state.file("blobs", request.match_info["name"])

    async def _get_volume_file(self, request: web.Request) -> web.Response:
        with self.volume_path(request.match_info["id"], request.match_info["path"]).open("rb") as file:
            file.seek(int(request.query["start"]))
            return web.Response(body=file.read(int(request.query["bytes"])))

    async def _get_app(self, request: web.Request) -> web.Response:
        app = self.state.apps.get(self.state.ids.get(("app", request.match_info["app"]), ""))
        return web.json_response(self.describe_functions(app)) if app else web.Response(status=404)

    async def _trigger(self, request: web.Request) -> web.Response:
        """Call a function without arguments, as its schedule would (modal.com/docs/guide/cron)."""
        try:
            function = self.find_function(request.match_info["app"], request.match_info["function"])
        except grpclib.GRPCError as error:
            return web.Response(status=404, text=error.message)
        log_start = len(function.app.logs)
        call = self.new_call(function, pb.FUNCTION_CALL_TYPE_UNARY)
        message = pb.FunctionInput(data_format=pb.DATA_FORMAT_PICKLE, args=pickle.dumps(((), {}), 4))
        await self.put_input(call, pb.FunctionPutInputsItem(input=message))
        outputs = await self.state.wait_for(lambda: call.outputs, TRIGGER_TIMEOUT_S)
        batches = [batch for batch in function.app.logs[log_start:] if batch.function_id == function.id]
        logs = [item.data for batch in batches for item in batch.items]
        result = outputs[0].result if outputs else Result(exception="it did not end")
        return web.json_response({"status": result.status, "exception": result.exception, "log": "".join(logs)})

    async def _plan_failures(self, request: web.Request) -> web.Response:
        """Body `{"preempt": [seconds, …], "kill": [seconds, …]}`: into the function's next inputs."""
        plans = json.loads(await request.text())
        self.preemptions.setdefault(request.match_info["function"], []).extend(plans.get("preempt", []))
        self.kills.setdefault(request.match_info["function"], []).extend(plans.get("kill", []))
        return web.json_response({})

    async def _preempt(self, request: web.Request) -> web.Response:
        """Preempt every container of a function that works on an input now, and return their number.

        One that is told to end already is not counted again: what it saves on its way out is no new reason.
        """
        containers = self.state.containers.values()
        of_function = [c for c in containers if c.function.name == request.match_info["function"]]
        working = [c for c in of_function if c.alive and c.running and not c.draining]
        for container in working:
            self.schedule(0, self.kill(container, "preempted", PREEMPTION_GRACE_S))
        return web.json_response(len(working))

    async def _limit_volume(self, request: web.Request) -> web.Response:
        """Body `{"most_bytes": n}`: the capacity of a volume."""
        volume = self.state.volumes[self.state.ids["volume", request.match_info["name"]]]
        volume.max_bytes = json.loads(await request.text())["most_bytes"]
        return web.json_response({})

    async def _listen(self, app: web.Application, port: int) -> int:
        """Serve an app on loopback and return its port; `port` 0 takes any free one."""
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        bound_port: int = runner.addresses[0][1]
        return bound_port


async def _read_request(request: web.Request) -> pb.Asgi:
    return pb.Asgi(http_request=pb.Asgi.HttpRequest(body=await request.read()))


def _socket_scope(request: web.Request) -> dict[str, Any]:
    """Return the ASGI scope of a WebSocket."""
    offered = request.headers.get("Sec-WebSocket-Protocol", "")
    protocols = [name.strip() for name in offered.split(",") if name.strip()]
    scope = {name: value for name, value in _scope(request).items() if name != "method"}
    return scope | {"type": "websocket", "scheme": "ws", "subprotocols": protocols}


def _scope(request: web.Request) -> dict[str, Any]:
    """Return the ASGI scope of an HTTP request (asgi.readthedocs.io/en/latest/specs/www.html)."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": request.path,
        "raw_path": request.raw_path.encode(),
        "query_string": request.query_string.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in request.headers.items()],
        "client": ("127.0.0.1", 1),
        "root_path": "",
    }
