"""What Prometheus sees of a run: the latest state, put into metric families only when it is scraped.

A tick costs two assignments and an update, not dozens of gauges. Counters are born at 0 for every rule,
action and result that the policy can give, so that ``increase()`` sees the first one too.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from itertools import product
from threading import Thread
from typing import Protocol
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ..monitors.changes import MARK
from ..monitors.types import SOURCE_PREFIX, Health, Reading, Sample
from ..policies.model import Mode, Policy
from ..policies.types import Decision, Disposition, Outcome, Phase, Result, Status, Verdict

log = logging.getLogger(__name__)

HEALTH_CODES = {health: code for code, health in enumerate(Health)}
PHASE_CODES = {phase: code for code, phase in enumerate(Phase)}
COMPONENTS = ("checkpoint", "controller", "journal", "monitor", "regulator", "probe", "notify", "metrics")
WEIGHT_PREFIX = "weight/"  # override targets of the data mix; the others are multipliers
MAX_SIGNALS = 256  # of names that a user makes up while the run goes on

_Readings = Mapping[str, Mapping[str, Reading]]


class _Store(Protocol):
    """What is asked of a journal."""

    @property
    def size_bytes(self) -> int: ...
    @property
    def writable(self) -> bool: ...


class Metrics(Collector):
    """The metrics of one run.

    Args:
        policy: its monitors, rules and actions are the labels.
        registry: where to register; None makes a private one, so that nothing else of the process is served.
        sources: the data sources, whose weights are shown from the start.
        clock: Unix seconds, for the time of the last intervention.

    Calls come from the training thread and never block or raise; scrapes come from the server's threads and
    read what stands.
    """

    def __init__(
        self,
        policy: Policy,
        registry: CollectorRegistry | None = None,
        sources: Sequence[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self._clock = clock
        self._signals: dict[str, float] = {}
        self._readings: _Readings = {}
        self._newest = Sample(0, 0, 0)
        self._epoch = self._attempt = 0
        self._acting = policy.mode is Mode.ACT
        self._multipliers = {"lr": 1.0}
        self._weights: dict[str, float] = {}
        self._regulators: Mapping[str, Mapping[str, float]] = {}
        self._phases: dict[tuple[str, str], Phase] = {}
        self._interventions: dict[str, float] = {}
        self._decisions = self._actions = self._verdicts = Counter[tuple[str, ...]]()
        self._waiting = 0
        self._edits = _zeros(("taken", "refused"))
        self._take(policy)
        self._errors = _zeros(COMPONENTS)
        self._tried = 0.0
        self.spent: defaultdict[str, float] = defaultdict(float)
        """Seconds that each part of the hooks has taken: what comes at every tick is added here."""
        self._snapshots = {"count": 0.0, "bytes": 0.0, "taken": 0.0, "seconds": 0.0}
        self._checkpoints = {"tick": -1.0, "bytes": 0.0, "written": 0.0}
        self._journal: _Store | None = None
        self._server: tuple[WSGIServer, Thread] | None = None
        self.declare_sources(sources)
        self.registry.register(self)

    def edited(self, policy: Policy | None) -> None:
        """An edited policy is in force from now on (None: it was refused); what was counted stays."""
        self._edits["refused" if policy is None else "taken",] += 1
        if policy is not None:
            self._take(policy)

    def _take(self, policy: Policy) -> None:
        self._watched = {spec.name: str(spec.params.get("signal", "")) for spec in policy.monitors}
        rules = [rule.name for rule in policy.rules]
        known = dict(self._phases)
        self._phases = {(rule.name, ""): Phase.INACTIVE for rule in policy.rules if rule.foreach is None}
        self._phases |= {key: phase for key, phase in known.items() if key[0] in rules}
        actions = {action.name for rule in policy.rules for rung in rule.ladder for action in rung.actions}
        self._decisions = _with_zeros(self._decisions, rules, Disposition)
        self._actions = _with_zeros(self._actions, sorted(actions), Status)
        self._verdicts = _with_zeros(self._verdicts, rules, Result)

    def declare_sources(self, sources: Sequence[str]) -> None:
        """Name the data sources, once they are known; their weights are 0 until told."""
        for source in sources:
            self._weights.setdefault(source, 0.0)

    def watch_journal(self, journal: _Store) -> None:
        """Show the size and the state of this journal."""
        self._journal = journal

    def attempt(self, number: int) -> None:
        """Which process life of the run this is."""
        self._attempt = number

    def epoch(self, number: int) -> None:
        """Which pass over the data the run is in."""
        self._epoch = number

    def mode(self, mode: Mode) -> None:
        """Whether decisions are carried out now."""
        self._acting = mode is Mode.ACT

    def sample(self, sample: Sample, readings: _Readings) -> None:
        """The newest tick. A signal that it lacks keeps its last value."""
        self._newest, self._readings = sample, readings
        self._signals.update(sample.signals)

    def decision(self, decision: Decision) -> None:
        """Count a decision."""
        self._decisions[decision.rule, decision.disposition.value] += 1

    def outcome(self, outcome: Outcome, decision: Decision) -> None:
        """Count what became of the actions of ``decision``."""
        self._tried += outcome.details.get("trial", {}).get("ticks", 0)
        for action in decision.actions:
            self._actions[action.name, outcome.status.value] += 1
        if outcome.status is Status.APPLIED:
            self._interventions[decision.rule] = self._clock()

    def verdict(self, verdict: Verdict, decision: Decision) -> None:
        """Count a verdict on ``decision``."""
        self._verdicts[decision.rule, verdict.result.value] += 1

    def phase(self, rule: str, instance: str, phase: Phase) -> None:
        """Where a rule stands now."""
        self._phases[rule, instance] = phase

    def waiting(self, count: int) -> None:
        """How many decisions wait for approval."""
        self._waiting = count

    def snapshot(self, count: int, bytes: int, seconds: float) -> None:
        """A snapshot was taken: how many are kept, what they take, how long training stood still."""
        kept = self._snapshots
        kept["count"], kept["bytes"] = count, bytes
        kept["taken"] += 1
        kept["seconds"] += seconds

    def checkpoint(self, tick: int, bytes: int) -> None:
        """A durable checkpoint of this tick is complete; this process' part takes so many bytes."""
        kept = self._checkpoints
        kept["tick"], kept["bytes"] = tick, bytes
        kept["written"] += 1

    def override(self, target: str, value: float) -> None:
        """What the overrides make of ``target``: ``lr`` (a multiplier) or ``weight/SOURCE`` (a share)."""
        if target.startswith(WEIGHT_PREFIX):
            self._weights[target.removeprefix(WEIGHT_PREFIX)] = value
        else:
            self._multipliers[target] = value

    def regulators(self, outputs: Mapping[str, Mapping[str, float]]) -> None:
        """What each regulator gives now: shares by ``weight/SOURCE``, or a factor by its actuator."""
        self._regulators = outputs

    def error(self, component: str) -> None:
        """Count a fault of Midcourse itself."""
        self._errors[(component,)] += 1

    def overhead(self, part: str, seconds: float) -> None:
        """Add to the time that a part of the hooks has taken."""
        self.spent[part] += seconds

    def serve(self, port: int, address: str = "127.0.0.1") -> int | None:
        """Serve ``/metrics`` from a thread; returns the port, which 0 leaves to the system.

        Only this machine can ask, unless ``address`` says otherwise: the page has no password. A port that
        cannot be had is a warning and None.
        """
        try:
            self._server = start_http_server(port, address, self.registry)
        except (OSError, OverflowError) as error:
            log.warning("metrics are not served on %s:%s: %s", address, port, error)
            return None
        return self._server[0].server_port

    def close(self) -> None:
        """Stop serving, and make room in the registry for another run of this process."""
        with suppress(KeyError):  # closed before
            self.registry.unregister(self)
        if self._server is not None:
            server, thread = self._server
            self._server = None
            server.shutdown()
            server.server_close()
            thread.join()

    def collect(self) -> Iterator[Metric]:
        """The metric families as they stand: called by the registry at every scrape."""
        at = self._newest
        place = {"tick": at.tick, "step": at.step, "branch": at.branch}
        for name, value in {**place, "epoch": self._epoch, "attempt": self._attempt}.items():
            yield _gauge(name, f"The {name} that the run is at.", (), [((), value)])
        yield _gauge("acting", "1 if decisions are carried out, 0 in observe mode.", (), [((), self._acting)])
        yield from self._measured()
        yield from self._monitored()
        yield from self._decided()
        yield from self._steered()
        yield from self._own()

    def _measured(self) -> Iterator[Metric]:
        while len(self._signals) > MAX_SIGNALS:
            self._signals.popitem()
        values = [
            (_signal_labels(name), value)
            for name, value in dict(self._signals).items()
            if not name.startswith(MARK)  # it is news for one tick, and no state
        ]
        help = "The last value of a signal, in its own unit; source is set for per-source losses."
        yield _gauge("signal", help, ("signal", "source"), values)

    def _monitored(self) -> Iterator[Metric]:
        readings = [
            ((name, instance, self._watched.get(name, name)), reading)
            for name, instances in list(self._readings.items())
            for instance, reading in list(instances.items())
        ]
        labels = ("monitor", "subject", "signal")
        codes = ", ".join(f"{code} {health.value}" for health, code in HEALTH_CODES.items())
        health = [(key, HEALTH_CODES[reading.health]) for key, reading in readings]
        yield _gauge("monitor_health", f"Health of a monitor: {codes}.", labels, health)
        for what, help in (
            ("score", "How far the signal is off, in the monitor's own measure."),
            ("threshold", "The score beyond which the monitor alarms."),
            ("level", "Robust location of the healthy signal, in the signal's unit."),
            ("noise", "Robust scale of the healthy signal, in the signal's unit."),
        ):
            values = [(key, getattr(reading, what)) for key, reading in readings]
            known = [(key, value) for key, value in values if value == value]
            yield _gauge(f"monitor_{what}", help, labels, known)

    def _decided(self) -> Iterator[Metric]:
        codes = ", ".join(f"{code} {phase.value}" for phase, code in PHASE_CODES.items())
        phases = [(key, PHASE_CODES[phase]) for key, phase in dict(self._phases).items()]
        yield _gauge("rule_phase", f"Phase of a rule: {codes}.", ("rule", "subject"), phases)
        yield _counter("decisions", "Decisions by rule.", ("rule", "disposition"), self._decisions)
        yield _counter("actions", "Actions by what became of them.", ("action", "status"), self._actions)
        yield _counter("verdicts", "Verdicts by rule.", ("rule", "result"), self._verdicts)
        yield _gauge("decisions_waiting", "Decisions that wait for approval.", (), [((), self._waiting)])
        yield _counter("policy_edits", "Edited policies by what became of them.", ("result",), self._edits)
        yield _counter("trial_ticks", "Ticks that trials took, of all their arms.", (), {(): self._tried})
        times = [((rule,), seconds) for rule, seconds in dict(self._interventions).items()]
        help = "When a decision of this rule was last applied, in Unix seconds."
        yield _gauge("last_intervention_timestamp_seconds", help, ("rule",), times)

    def _steered(self) -> Iterator[Metric]:
        multipliers = [((target,), value) for target, value in dict(self._multipliers).items()]
        weights = [((source,), value) for source, value in dict(self._weights).items()]
        yield _gauge("multiplier", "Product of the overrides on a target.", ("target",), multipliers)
        yield _gauge("source_weight", "Weight of a data source as drawn.", ("source",), weights)
        outputs = [
            ((name, target), value)
            for name, values in self._regulators.items()
            for target, value in values.items()
        ]
        help = "What a regulator wants: the share of a source, or a factor on the user's own value."
        yield _gauge("regulator_output", help, ("regulator", "target"), outputs)

    def _own(self) -> Iterator[Metric]:
        kept = self._snapshots
        yield _gauge("snapshots", "Snapshots that are kept.", (), [((), kept["count"])])
        yield _gauge("snapshot_bytes", "Memory that the snapshots take.", (), [((), kept["bytes"])])
        yield _counter("snapshots_taken", "Snapshots taken.", (), {(): kept["taken"]})
        yield _counter(
            "snapshot_seconds", "Time that training stood still for them.", (), {(): kept["seconds"]}
        )
        saved = self._checkpoints
        if saved["tick"] >= 0:
            help = "Tick of the newest durable checkpoint."
            yield _gauge("checkpoint_tick", help, (), [((), saved["tick"])])
        yield _gauge("checkpoint_bytes", "What it takes on disk here.", (), [((), saved["bytes"])])
        yield _counter("checkpoints_written", "Durable checkpoints written.", (), {(): saved["written"]})
        spent: dict[tuple[str, ...], float] = {(part,): s for part, s in dict(self.spent).items()}
        yield _counter("hook_seconds", "Time spent in the hooks.", ("part",), spent)
        yield _counter("errors", "Faults of Midcourse itself.", ("component",), self._errors)
        if self._journal is not None:
            yield _gauge("journal_bytes", "Size of the journal.", (), [((), self._journal.size_bytes)])
            writable = self._journal.writable
            yield _gauge("journal_writable", "1 while the journal can be written.", (), [((), writable)])


def _with_zeros(
    counted: Counter[tuple[str, ...]], names: Iterable[str], results: Iterable[Enum]
) -> Counter[tuple[str, ...]]:
    return Counter({**_zeros(names, [str(result.value) for result in results]), **counted})


def _zeros(*labels: Iterable[str]) -> Counter[tuple[str, ...]]:
    return Counter(dict.fromkeys(product(*labels), 0))


def _signal_labels(name: str) -> tuple[str, str]:
    """``loss/source=code`` becomes the signal ``loss`` of the source ``code``."""
    if name.startswith(SOURCE_PREFIX):
        return "loss", name.removeprefix(SOURCE_PREFIX)
    return name, ""


def _gauge(
    name: str, help: str, labels: Sequence[str], values: Iterable[tuple[Sequence[str], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"midcourse_{name}", help, labels=labels)
    for key, value in values:
        family.add_metric(key, value)
    return family


def _counter(
    name: str, help: str, labels: Sequence[str], counts: Mapping[tuple[str, ...], float]
) -> CounterMetricFamily:
    family = CounterMetricFamily(f"midcourse_{name}", help, labels=labels)
    for key, value in dict(counts).items():
        family.add_metric(key, value)
    return family
