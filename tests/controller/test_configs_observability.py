"""The shipped Prometheus and Grafana files: consistent with the metrics, and answered by a real Prometheus.

No Grafana runs here: how the panels look is not shown, only that each expression has an answer.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from journal_words import decision, started

from midcourse.controller.metrics import HEALTH_CODES, PHASE_CODES, Metrics
from midcourse.monitors.types import Health, Reading, Sample
from midcourse.policies.policy import load_policy
from midcourse.policies.types import Outcome, Phase, Result, Status, Verdict

CONFIGS = Path(str(files("midcourse.configs")))
DASHBOARD: dict[str, Any] = json.loads((CONFIGS / "grafana/midcourse.json").read_text("utf-8"))
RULES = yaml.safe_load((CONFIGS / "prometheus/rules.yml").read_text("utf-8"))["groups"][0]["rules"]
COMPOSE = yaml.safe_load((CONFIGS / "compose.yaml").read_text("utf-8"))

PANELS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
ANNOTATIONS = [annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]]
ALERTS = [rule["expr"] for rule in RULES]


def filled(expression: str) -> str:
    """An expression as Grafana sends it: its variables replaced."""
    for variable, text in (("$run", ".*"), ("$__rate_interval", "20s"), ("$__interval", "20s")):
        expression = expression.replace(variable, text)
    assert "$" not in expression
    return expression


def live_metrics(path: Path) -> Metrics:
    """Metrics of a run in which something of everything has been seen."""
    policy = load_policy("baseline")
    metrics = Metrics(policy, sources=["code"])
    metrics.watch_journal(started(path))
    metrics.overhead("monitors", 0.0)
    signals = {"loss": 5.3, "loss/source=code": 2.0, "grad_norm": 1.0, "lr": 1e-3}
    reading = Reading(Health.ALARM, 1, 5.3, 58.0, 10.0, 1, 2.4, 0.05)
    readings = {spec.name: {"": reading} for spec in policy.monitors}
    metrics.sample(Sample(1, 1, 0, signals), readings)
    metrics.checkpoint(1, 1000)
    metrics.regulators({"mix": {"weight/code": 0.5}})
    metrics.phase("off-course", "", Phase.EXHAUSTED)
    return metrics


def test_every_metric_that_is_asked_for_exists(tmp_path: Path) -> None:
    metrics = live_metrics(tmp_path)
    metrics.outcome(Outcome(decision(1).id, Status.APPLIED, 1), decision(1))
    shown = {sample.name for family in metrics.collect() for sample in family.samples}
    asked = set(re.findall(r"midcourse_\w+", " ".join(PANELS + ANNOTATIONS + ALERTS)))
    assert asked <= shown
    assert shown - asked <= {
        f"midcourse_{name}"
        for name in (
            *("step", "epoch", "attempt"),
            *("snapshots_taken_total", "checkpoints_written_total", "trial_ticks_total"),
        )
    }  # all else is on the dashboard


def test_the_dashboard_hangs_together() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        grid = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not taken & cells
        assert all(x < 24 for x, _ in cells)
        taken |= cells
        assert panel["description"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    [first, *_] = DASHBOARD["annotations"]["list"]
    assert first["useValueForTime"] is True


@pytest.mark.parametrize(("metric", "codes"), [("monitor_health", HEALTH_CODES), ("rule_phase", PHASE_CODES)])
def test_codes_are_named_as_the_exporter_numbers_them(metric: str, codes: dict[Any, int]) -> None:
    [panel] = [p for p in DASHBOARD["panels"] if p["targets"][0]["expr"].startswith(f"midcourse_{metric}")]
    [mapping] = panel["fieldConfig"]["defaults"]["mappings"]
    named = {int(code): named["text"].replace("-", "") for code, named in mapping["options"].items()}
    assert named == {code: state.value for state, code in codes.items()}


def test_compose_mounts_what_is_shipped_and_stays_on_this_machine() -> None:
    for service in COMPOSE["services"].values():
        assert service["network_mode"] == "host"
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (CONFIGS / source).exists()
    assert "--web.listen-address=127.0.0.1:9090" in COMPOSE["services"]["prometheus"]["command"]
    assert COMPOSE["services"]["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    provisioned = yaml.safe_load(
        (CONFIGS / "grafana/provisioning/datasources/prometheus.yaml").read_text("utf-8")
    )
    assert provisioned["datasources"][0]["uid"] == DASHBOARD["panels"][0]["datasource"]["uid"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A real Prometheus that scrapes ``port`` with the shipped configuration, twice a second."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port = free_port()
        config = (CONFIGS / "prometheus/prometheus.yml").read_text("utf-8")
        config = config.replace("127.0.0.1:9464", f"127.0.0.1:{port}").replace(
            "interval: 5s ", "interval: 500ms "
        )
        config = config.replace("interval: 5s", "interval: 500ms")
        (folder / "prometheus.yml").write_text(config)
        shutil.copy(CONFIGS / "prometheus/rules.yml", folder)
        self.process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            stderr=subprocess.DEVNULL,
        )

    def ask(self, path: str, **query: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def value_of(self, expression: str) -> list[Any]:
        return list(self.ask("query", query=filled(expression))["result"])

    def wait_for(self, expressions: list[str], seconds: float = 60.0) -> None:
        """Return when every expression has an answer; fail with those that have none."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                silent = [expression for expression in expressions if not self.value_of(expression)]
            except OSError:  # it is still starting
                silent = expressions
            if not silent:
                return
            assert time.monotonic() < deadline, silent
            time.sleep(0.5)


needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="prometheus and promtool are not on the PATH",
)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Metrics, Server]]:
    metrics = live_metrics(tmp_path / "run")
    port = metrics.serve(0)
    assert port is not None
    server = Server(tmp_path, port)
    yield metrics, server
    server.process.terminate()
    server.process.wait(20)
    metrics.close()


@pytest.mark.slow
@needs_prometheus
def test_promtool_accepts_the_shipped_files() -> None:
    for command in (["config", "prometheus.yml"], ["rules", "rules.yml"]):
        subprocess.run(
            ["promtool", "check", *command], cwd=CONFIGS / "prometheus", check=True, capture_output=True
        )


@pytest.mark.slow
@needs_prometheus
def test_a_real_prometheus_answers_every_expression(served: tuple[Metrics, Server]) -> None:
    metrics, server = served
    server.wait_for(["midcourse_tick"])
    acted = decision(2)
    metrics.decision(acted)
    metrics.outcome(Outcome(acted.id, Status.APPLIED, 2), acted)
    metrics.outcome(Outcome(acted.id, Status.FAILED, 2), acted)
    metrics.verdict(Verdict(acted.id, Result.DID_NOT_HELP, 9), acted)
    metrics.error("monitor")
    metrics.error("checkpoint")
    metrics.snapshot(1, 1000, 0.1)
    metrics.waiting(1)
    metrics.edited(None)
    server.wait_for(PANELS + ANNOTATIONS)
    [answer] = server.value_of('increase(midcourse_decisions_total{rule="off-course",disposition="act"}[1m])')
    assert float(answer["value"][1]) > 0  # the first one counts

    rules = server.ask("rules")["groups"][0]["rules"]
    assert len(rules) == len(ALERTS)
    assert all(rule["health"] in ("ok", "unknown") and not rule.get("lastError") for rule in rules)
    firing = [rule["expr"] for rule in RULES if "up{" not in rule["expr"]]
    firing = [expr for expr in firing if "changes" not in expr and "writable" not in expr]
    server.wait_for(firing)  # what was done above fires them
    server.wait_for([f"({expr}) or vector(0)" for expr in ALERTS])
    assert server.value_of("midcourse_journal_writable == 0") == []
