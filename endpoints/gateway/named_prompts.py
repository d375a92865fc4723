"""The prompts of a request: those that its caller names for the log, and the style that it asks for."""

from tuneline.core.errors import NotFound, TunelineError
from tuneline.endpoints.gateway.api_errors import ApiError
from tuneline.endpoints.gateway.request_body import Body
from tuneline.endpoints.prompts import PROMPT_HEADER, add_to_system, find_style, read_prompt_header
from tuneline.endpoints.request_log.lines import RequestLine

STYLE_HEADER = "x-tuneline-style"


def apply_prompts(api: str, headers: dict[str, str], body: Body, line: RequestLine) -> Body:
    """Return the body with the style that `x-tuneline-style` names in its system message; the line notes each prompt.

    Raises:
        ApiError: 404, no such style; 400, the path has no messages that it could be in.
    """
    prompts = read_prompt_header(headers.get(PROMPT_HEADER, ""))
    if name := headers.get(STYLE_HEADER):
        if api != "chat/completions":
            raise ApiError(400, f"{STYLE_HEADER}: works at /v1/chat/completions", param=STYLE_HEADER)
        try:
            style = find_style(name)
            body = {**body, "messages": add_to_system(body["messages"], style.render())}
        except NotFound as error:
            raise ApiError(404, str(error), param=STYLE_HEADER) from None
        except TunelineError as error:  # its file cannot be read here
            raise ApiError(500, str(error), param=STYLE_HEADER) from None
        prompts[style.label] = style.hash
    line.prompts = prompts or None
    return body
