"""Notify: a line in the log and a webhook, which may fail without harm."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from small_loop import train

POLICY = """
version: 1
signals: [trigger]
rules:
  - name: tell
    when: trigger.value > 0.5
    ladder:
      - [notify: {{message: look at this, url: "{url}"}}]
"""


@pytest.fixture
def webhook() -> Iterator[tuple[str, Queue[dict[str, Any]]]]:
    received: Queue[dict[str, Any]] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook", received
    server.shutdown()


def test_people_and_programs_are_told(
    tmp_path: Path, webhook: tuple[str, Queue[dict[str, Any]]], caplog: pytest.LogCaptureFixture
) -> None:
    url, received = webhook
    with caplog.at_level(logging.WARNING, "midcourse"):
        told = train(tmp_path, POLICY.format(url=url), triggers={20: 1.0})
    body = received.get(timeout=10)
    assert (body["rule"], body["decision"], body["step"]) == ("tell", "tell@20", 20)
    assert body["text"].startswith("look at this")
    assert any("look at this" in record.getMessage() for record in caplog.records)
    assert told.matches(train())


def test_a_webhook_that_nobody_answers_harms_nothing(tmp_path: Path) -> None:
    told = train(tmp_path, POLICY.format(url="http://127.0.0.1:9/hook"), triggers={20: 1.0})
    assert told.matches(train())
