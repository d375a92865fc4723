"""Tells somebody that a run ended or a promoted model got worse: W&B, and a webhook, if TUNELINE_WEBHOOK names one."""

import json
import logging
import os
import urllib.error
import urllib.request

from tuneline.core.tracking import alert

log = logging.getLogger(__name__)

VARIABLE = "TUNELINE_WEBHOOK"
TIMEOUT_S = 10


def notify(text: str, **facts: object) -> bool:
    """POST `{"text": …, …}`, which Slack, Mattermost and others take; False if there is no webhook or it failed.

    W&B gets it as an alert, where it is on. Either that fails is a warning: no run is lost for it. The address of the
    webhook may be a secret and is never shown.
    """
    alert(str(facts.get("run") or facts.get("name") or "tuneline"), text, log.warning)
    address = os.environ.get(VARIABLE, "")
    if not address.startswith(("https://", "http://")):
        return False
    body = json.dumps({"text": text} | facts).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            return True
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        log.warning("the webhook did not take the message: %s", getattr(error, "reason", type(error).__name__))
        return False
