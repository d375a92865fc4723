"""The reports of runs on this machine, as their stage wrote them."""

from collections.abc import Callable

from nicegui import app
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response

from tuneline.core import paths
from tuneline.core.errors import BadRequest
from tuneline.stages.report import FILE
from tuneline.ui.access import Access

POLICY = "sandbox allow-popups; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
SANDBOX = {"content-security-policy": POLICY}
"""A report is a page of its own: it runs no script here, and has no part in the page's session."""


def declare_reports(access: Callable[[], Access]) -> None:
    """Declare what answers at `/reports/RUN`, for operators."""

    @app.get("/reports/{run}")
    def send_report(request: Request, run: str) -> Response:
        if not access().find(request).visitor.is_operator:
            return PlainTextResponse("runs are shown to operators: `tuneline keys change OWNER --operator`", 403)
        try:
            file = paths.run_folder(run) / FILE
        except BadRequest as error:
            return PlainTextResponse(str(error), 404)
        if not file.is_file():
            return PlainTextResponse(f"{run}: no report; `tuneline report {run}` writes it", 404)
        return FileResponse(file, media_type="text/html", headers=SANDBOX)
