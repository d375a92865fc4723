"""Messages to people when a run has ended or a promoted model got worse: to W&B and to the webhook TUNELINE_WEBHOOK."""

import json
import logging

from tuneline.core.environment import read_variable
from tuneline.core.redaction import redact
from tuneline.core.tracking import alert
from tuneline.core.web_requests import open_url

log = logging.getLogger(__name__)

WEBHOOK_VARIABLE = "TUNELINE_WEBHOOK"
TIMEOUT_S = 10


def notify(text: str, **facts: object) -> bool:
    """POST `{"text": …, …}` to the webhook, as Slack and Mattermost accept it, and return whether it was accepted.

    W&B gets the text as an alert if it is on. Neither failure raises: each is logged as a warning, so no run is lost
    for it. The webhook's address may be a secret and is never shown.
    """
    alert(str(facts.get("run") or facts.get("name") or "tuneline"), text, log.warning)
    address = read_variable(WEBHOOK_VARIABLE)
    if not address.startswith(("https://", "http://")):
        return False
    body = json.dumps({"text": text} | facts).encode()
    try:
        with open_url(address, body, {"Content-Type": "application/json"}, timeout_s=TIMEOUT_S):
            return True
    except OSError as error:
        log.warning(
            "the webhook did not accept the message: %s",
            redact(str(getattr(error, "reason", None) or type(error).__name__)),
        )
        return False
