"""Endpoints: an ASGI app that streams, a web server of its own, one behind Modal's proxy auth; and a schedule."""

import subprocess
import sys
import time

import modal

app = modal.App("web")
disk = modal.Volume.from_name("web", create_if_missing=True)
image = modal.Image.debian_slim().pip_install("fastapi==0.133.0").env({"WORD": "hush"})


@app.function(image=image, gpu="H100:2", memory=2048, timeout=120)
@modal.concurrent(max_inputs=4)
@modal.asgi_app()
def streamed():  # type: ignore[no-untyped-def]
    from fastapi import FastAPI, WebSocket
    from fastapi.responses import StreamingResponse

    front = FastAPI()

    def pieces():  # type: ignore[no-untyped-def]
        yield "first,"
        time.sleep(1)
        yield "second"

    @front.get("/pieces")
    def get():  # type: ignore[no-untyped-def]
        return StreamingResponse(pieces())

    @front.get("/slow")
    def slow():  # type: ignore[no-untyped-def]
        time.sleep(1)
        return "done"

    @front.websocket("/socket")
    async def echo(socket: WebSocket) -> None:
        if socket.query_params.get("word") != "hush":
            await socket.close()
            return
        await socket.accept("words" if "words" in socket.scope["subprotocols"] else None)
        async for text in socket.iter_text():
            if text == "bye":
                break
            await socket.send_text(text[::-1])
            await socket.send_bytes(text.encode())
        print(f"left after {text}")
        await socket.close(4000)

    return front


@app.function(scaledown_window=2)
@modal.web_server(8000, startup_timeout=30)
def served() -> None:
    subprocess.Popen([sys.executable, "-m", "http.server", "8000", "--directory", "/root"])


@app.function()
@modal.fastapi_endpoint(requires_proxy_auth=True)
def guarded() -> str:
    return "in"


@app.function(retries=2, schedule=modal.Cron("0 6 * * 1"), volumes={"/disk": disk})
def weekly() -> None:
    print("the week is over")


@app.function(schedule=modal.Period(days=1))
def daily() -> None:
    raise ValueError("a bad day")
