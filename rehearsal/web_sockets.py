"""WebSockets of web endpoints: the browser's messages become those of the call's ASGI app, and the app's go back.

modal.com/docs/guide/webhooks: RFC 6455 without compression, messages of at most 2 MiB. A connection is one input.
"""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import WSMsgType, web
from modal_proto import api_pb2 as pb

from tuneline.rehearsal.state import Call, State

MAX_MESSAGE_BYTES = 2 << 20
RESTARTED = 1012
LOOK_S = 1.0


def is_websocket(request: web.Request) -> bool:
    """Return whether a request asks for a WebSocket."""
    return request.headers.get("Upgrade", "").lower() == "websocket"


async def exchange_messages(state: State, call: Call, request: web.Request) -> web.StreamResponse:
    """Carry messages between a browser and a call until one of them ends; 403 if the app does not accept."""
    messages = read_messages(state, call)
    first = await anext(messages, None)
    if first is None or not first.HasField("websocket_accept"):
        return web.Response(status=403)
    protocol = first.websocket_accept.subprotocol
    socket = web.WebSocketResponse(
        protocols=(protocol,) if protocol else (), compress=False, max_msg_size=MAX_MESSAGE_BYTES
    )
    await socket.prepare(request)
    receiving = asyncio.create_task(_receive(state, call, socket))
    code = 1011  # the call ended without a word
    try:
        async for message in messages:
            if message.HasField("websocket_send"):
                await _send(socket, message.websocket_send)
            elif message.HasField("websocket_close"):
                code = message.websocket_close.code or 1000
                break
            elif message.HasField("websocket_accept"):  # a container was lost, and another one begins the call again
                put_message(state, call, pb.Asgi(websocket_disconnect=pb.Asgi.WebsocketDisconnect(code=RESTARTED)))
                code = RESTARTED
                break
    except ConnectionError:
        pass  # the browser is gone; `_receive` has told the app
    finally:
        receiving.cancel()
        await socket.close(code=code)
    return socket


async def read_messages(state: State, call: Call) -> AsyncIterator[pb.Asgi]:
    """Yield what a call's ASGI app sends, until the call ends."""
    position = 0
    while True:
        sent = position
        await state.wait_for(lambda sent=sent: len(call.data_out) > sent or call.outputs, LOOK_S)
        while position < len(call.data_out):
            yield read_message(state, call.data_out[position])
            position += 1
        if call.outputs and position == len(call.data_out):
            return


def read_message(state: State, chunk: pb.DataChunk) -> pb.Asgi:
    """Return the ASGI message in a chunk of a call's output."""
    data = chunk.data or (state.folder / "blobs" / chunk.data_blob_id).read_bytes()
    message: pb.Asgi = pb.Asgi.FromString(data)
    return message


def put_message(state: State, call: Call, message: pb.Asgi) -> None:
    """Send an ASGI message to a call."""
    chunk = pb.DataChunk(index=len(call.data_in) + 1, data_format=pb.DATA_FORMAT_ASGI, data=message.SerializeToString())
    call.data_in.append(chunk)
    state.notify()


async def _receive(state: State, call: Call, socket: web.WebSocketResponse) -> None:
    """Pass on what the browser sends, and that it is gone."""
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            put_message(state, call, pb.Asgi(websocket_receive=pb.Asgi.WebsocketReceive(text=message.data)))
        elif message.type is WSMsgType.BINARY:
            put_message(state, call, pb.Asgi(websocket_receive=pb.Asgi.WebsocketReceive(bytes=message.data)))
    code = socket.close_code or 1006
    put_message(state, call, pb.Asgi(websocket_disconnect=pb.Asgi.WebsocketDisconnect(code=code)))


async def _send(socket: web.WebSocketResponse, message: pb.Asgi.WebsocketSend) -> None:
    if message.HasField("bytes"):
        await socket.send_bytes(message.bytes)
    else:
        await socket.send_str(message.text)
