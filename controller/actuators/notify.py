"""``notify``: a line in the log, and a webhook where one is given."""

from __future__ import annotations

import json
import logging
import threading
import urllib.request
from collections.abc import Mapping
from typing import Any

from ...policies.types import Decision
from ..run import Run
from .effect import Effect

log = logging.getLogger("midcourse")
TIMEOUT_SECONDS = 10.0


def notify(run: Run, decision: Decision, params: Mapping[str, Any]) -> Effect:
    """Tell people once the whole act is done; a webhook that fails is logged and harms nothing."""
    message = f"{params['message']} (rule {decision.rule!r}, step {decision.step}: {decision.reason})"

    def commit() -> None:
        if not run.ranks.main:
            return
        log.warning("%s", message)
        if params["url"]:
            body = {"text": message, "decision": decision.id, "rule": decision.rule, "step": decision.step}
            threading.Thread(target=_post, args=(params["url"], body), daemon=True).start()

    return Effect({"message": message}, commit=commit)


def _post(url: str, body: Mapping[str, Any]) -> None:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
            pass
    except OSError as error:
        log.warning("notify: %s did not take the message: %s", url, error)
