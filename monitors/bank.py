"""All monitors of a policy, side by side: one sample in, all readings out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any, Final

from .base import ScaledMonitor
from .changes import Change, ChangeWatch
from .plan import Plan, Planned
from .registry import MONITORS, make_monitor
from .types import Health, Monitor, MonitorSpec, Reading, Sample

Readings = dict[str, dict[str, Reading]]
"""Monitor name -> instance -> reading. A monitor without a star has the one instance ``""``."""

MAX_INSTANCES: Final = 256
"""Instances that one star may make: beyond it new names are left unwatched, and one error says so."""

_MAX_NAMES: Final = 4096  # names of signals remembered as looked at already
_LOOK_EVERY: Final = 64  # ticks after which monitors whose signal is not measured say whether they are stale
_NUMBERS = ("value", "score", "threshold", "level", "noise")


class _Watch:
    """One instance of a monitor; ``error`` says why it is out of service, if it is.

    ``update`` is the monitor's, and ``health`` that of its reading: looked up at every tick.
    """

    __slots__ = ("error", "health", "instance", "monitor", "name", "readings", "update")

    def __init__(self, name: str, instance: str, monitor: Monitor, readings: dict[str, Reading]) -> None:
        self.name = name
        self.readings = readings  # of all instances of the monitor
        self.instance = instance
        self.monitor = monitor
        self.update = monitor.update
        self.error: str | None = None
        self.read(Reading(Health.WARMUP))

    @property
    def label(self) -> str:
        return f"{self.name}[{self.instance}]" if self.instance else self.name

    def read(self, reading: Reading) -> None:
        """This is its reading from now on; ``MonitorBank._update`` has it written out."""
        self.health = reading.health
        self.readings[self.instance] = reading


class _Star:
    """A monitor whose signal has a star: it is made anew for each name that matches."""

    def __init__(self, spec: MonitorSpec) -> None:
        self.spec = spec
        self._before, _, self._after = spec.params["signal"].partition("*")

    def match(self, name: str) -> str | None:
        """What the star stands for in a name, or None."""
        before, after = self._before, self._after
        if len(name) > len(before) + len(after) and name.startswith(before) and name.endswith(after):
            return name[len(before) : len(name) - len(after)]
        return None

    def make(self, instance: str) -> Monitor:
        return make_monitor(self.spec, f"{self._before}{instance}{self._after}")


class MonitorBank:
    """Runs the monitors of a policy and a baseline for each signal whose statistics its expressions read.

    A monitor that raises reads ERROR from then on and is not asked again; the others go on. ``readings``
    are the current ones, the same dictionaries at every tick with new readings in them.

    Args:
        specs: the policy's monitors. A signal with a star, ``loss/source=*``, makes one instance for each
            name that matches, called by what the star stands for.
        baselines: names of signals; the reading of each is under the signal's own name.

    Raises:
        ParameterError: a monitor cannot be made of its parameters.

    >>> bank = MonitorBank([MonitorSpec("guard", "guard")], baselines=["loss"])
    >>> readings = bank.update(Sample(0, 0, 0, {"loss": float("nan")}))
    >>> readings["guard"][""].health.value, readings["loss"][""].reason
    ('nonfinite', 'loss is nan')
    """

    def __init__(self, specs: Sequence[MonitorSpec], baselines: Sequence[str] = ()) -> None:
        self._specs = _specs(specs, baselines)
        self._errors: list[str] = []
        self._said: set[str] = set()
        self._lateness: dict[str, int] = {}
        self.planned: Plan | None = None
        """What is known ahead of the run, if it was told."""
        self.news = False
        """Some health has changed, or something went wrong; whoever has looked says when to begin anew."""
        self._start()
        self._share_scales()

    def take_specs(self, specs: Sequence[MonitorSpec], baselines: Sequence[str]) -> None:
        """Go on with the monitors of an edited policy: those that are written as before keep their state."""
        state = self.state_dict()
        self._specs, self._lateness = _specs(specs, baselines), {}
        self.load_state_dict(state)
        self.news = True

    def _start(self) -> None:
        """Make all monitors that need no name to be seen first."""
        self.readings: Readings = {}
        self._readings_before_step: Readings = {}
        self._before_step: list[_Watch] = []
        self._after_step: list[_Watch] = []
        self._by_signal: dict[str, list[_Watch]] = {}  # of those after the step that read one signal
        self._of_several: list[_Watch] = []
        self._changes = ChangeWatch()
        self._look_at = 0  # tick at which those that were not measured are asked too
        self._stars: list[_Star] = []
        self._seen: set[str] = set()
        self._judged_tick: int | None = None
        for spec in self._specs:
            self.readings[spec.name] = {}
            if "*" in str(spec.params.get("signal", "")):
                star = _Star(spec)
                self._stars.append(star)
                self._lateness[spec.name] = star.make("any").lateness
            else:
                watch = self._add(spec.name, "", make_monitor(spec))
                self._lateness[spec.name] = watch.monitor.lateness

    def judge_step(self, sample: Sample) -> Readings:
        """Update the monitors that are judged before ``optimizer.step()``; returns their readings."""
        self._admit(sample)
        self._update(self._before_step, sample)
        self._judged_tick = sample.tick
        return self._readings_before_step

    def update(self, sample: Sample) -> Readings:
        """Update all others, and those too if ``judge_step`` has not seen this tick; returns all readings."""
        self._admit(sample)
        if sample.tick != self._judged_tick:
            self._update(self._before_step, sample)
        change = self._changes.take(sample)
        if change is not None:
            self._expect(change)
        if sample.tick >= self._look_at:
            self._look_at = sample.tick + _LOOK_EVERY
            self._update(self._after_step, sample)
            return self.readings
        # A monitor whose signal was not measured has nothing to say, and most signals are at few ticks.
        by_signal = self._by_signal
        for name in sample.signals:
            if name in by_signal:
                self._update(by_signal[name], sample)
        self._update(self._of_several, sample)
        return self.readings

    def plan(self, plan: Plan) -> None:
        """Tell those that go by it what is known ahead of the run, later instances too; it is not rewound."""
        self.planned = plan
        for watch in (*self._before_step, *self._after_step):
            self._tell(watch)

    def _tell(self, watch: _Watch) -> None:
        if self.planned is not None and watch.error is None and isinstance(watch.monitor, Planned):
            try:
                watch.monitor.plan(self.planned)
            except BaseException as error:  # noqa: BLE001
                self._fail(watch, error)

    @property
    def on_edge(self) -> bool:
        """Whether a monitor that is judged before the step may alarm at the next one, if it is at all bad."""
        return any(getattr(watch.monitor, "on_edge", False) for watch in self._before_step)

    def lateness(self, monitor: str) -> int:
        """By how many ticks a monitor puts the onset of a change too late, at worst in 9 of 10 cases.

        Monitors are late by so many measurements; where their signal is measured at every tenth tick, that is
        ten times as many ticks, and nine more: the change may have come right after the measurement before.
        """
        watches = (watch for watch in (*self._before_step, *self._after_step) if watch.name == monitor)
        cadence = max((getattr(watch.monitor, "cadence", 1) for watch in watches), default=1)
        return self._lateness[monitor] * cadence + cadence - 1

    def facts(self) -> dict[str, dict[str, float]]:
        """The finite numbers of all readings: ``facts["loss"]["level"]``, instances as ``name[instance]``."""
        facts: dict[str, dict[str, float]] = {}
        for watch in (*self._before_step, *self._after_step):
            reading = watch.readings[watch.instance]
            numbers = {word: getattr(reading, word) for word in _NUMBERS} | dict(reading.extra or {})
            known = {word: number for word, number in numbers.items() if isfinite(number)}
            if known:
                facts[watch.label] = known
        return facts

    def take_errors(self) -> list[str]:
        """What went wrong since the last call, each thing once."""
        errors, self._errors = self._errors, []
        return errors

    def state_dict(self) -> dict[str, Any]:
        """The state of every instance with its reading, as what ``json.dumps`` accepts."""
        state: dict[str, dict[str, Any]] = {name: {} for name in self.readings}
        for watch in (*self._before_step, *self._after_step):
            own: dict[str, Any] | None = None
            if watch.error is None:
                try:
                    own = watch.monitor.state_dict()
                except BaseException as error:  # noqa: BLE001
                    self._fail(watch, error)
            reading = watch.readings[watch.instance].to_json()
            state[watch.name][watch.instance] = {"state": own, "reading": reading, "error": watch.error}
        written = {spec.name: _written(spec) for spec in self._specs}
        return {
            "monitors": state,
            "written": written,
            "look_at": self._look_at,
            "changes": self._changes.state_dict(),
            "plan": None if self.planned is None else self.planned.to_json(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state: later readings are the same as the source's.

        What it lacks starts anew, and so does a monitor that was written otherwise in the source's policy, or
        kept another state in an earlier version.
        The plan of the run stays, if it is known here already.
        """
        if self.planned is None and state.get("plan") is not None:
            self.planned = Plan.from_json(state["plan"])
        self._start()
        self._look_at = state.get("look_at", 0)
        if "changes" in state:
            self._changes.load_state_dict(state["changes"])
        now = {spec.name: _written(spec) for spec in self._specs}
        then = {**now, **state.get("written", {})}
        saved = {name: own for name, own in state["monitors"].items() if then.get(name) == now.get(name)}
        for star in self._stars:
            for instance in saved.get(star.spec.name, {}):
                self._add(star.spec.name, instance, star.make(instance))
        for watch in (*self._before_step, *self._after_step):
            if watch.instance not in saved.get(watch.name, {}):
                continue
            own = saved[watch.name][watch.instance]
            watch.read(Reading.from_json(own["reading"]))
            watch.error = own["error"]
            if watch.error is None:
                try:
                    watch.monitor.load_state_dict(own["state"])
                except BaseException as error:  # noqa: BLE001
                    self._fail(watch, error)
        self._share_scales()

    def _share_scales(self) -> None:
        """Only now, when every monitor has a state of its own: what a state lacks starts anew, alone."""
        for watches in (self._before_step, self._after_step):
            for place, watch in enumerate(watches):
                _share_scale(watch, watches[:place])

    def _add(self, name: str, instance: str, monitor: Monitor) -> _Watch:
        watch = _Watch(name, instance, monitor, self.readings[name])
        if monitor.before_step:
            self._before_step.append(watch)
            self._readings_before_step[name] = watch.readings
        else:
            self._after_step.append(watch)
            one = self._by_signal.setdefault(monitor.signals[0], []) if len(monitor.signals) == 1 else None
            (self._of_several if one is None else one).append(watch)
        self.news = True
        self._tell(watch)
        return watch

    def _admit(self, sample: Sample) -> None:
        """Make the instances of names that were not seen before."""
        if not self._stars or sample.signals.keys() <= self._seen:
            return
        if len(self._seen) > _MAX_NAMES:  # the run makes up new names for ever: stay bounded
            self._seen.clear()
        for name in sample.signals:  # in their order: that of a set differs from one process to the next
            for star in () if name in self._seen else self._stars:
                instance = star.match(name)
                if instance is not None and instance not in self.readings[star.spec.name]:
                    self._admit_instance(star, instance)
        self._seen |= sample.signals.keys()

    def _admit_instance(self, star: _Star, instance: str) -> None:
        name = star.spec.name
        if len(self.readings[name]) < MAX_INSTANCES:
            watch = self._add(name, instance, star.make(instance))
            _share_scale(watch, self._before_step if watch.monitor.before_step else self._after_step)
        else:
            self._say(f"monitor {name} watches {MAX_INSTANCES} names already: further ones are left out")

    def _update(self, watches: list[_Watch], sample: Sample) -> None:
        for watch in watches:
            if watch.error is None:
                try:
                    reading = watch.update(sample)
                    health = reading.health
                    if health is not watch.health:
                        watch.health = health
                        self.news = True
                    watch.readings[watch.instance] = reading
                except BaseException as error:  # noqa: BLE001
                    self._fail(watch, error, sample.tick)

    def _expect(self, change: Change) -> None:
        """Tell all monitors of a change that is meant."""
        for watch in (*self._before_step, *self._after_step):
            if watch.error is None:
                try:
                    watch.monitor.expect(change)
                except BaseException as error:  # noqa: BLE001
                    self._fail(watch, error, change.tick)

    def _fail(self, watch: _Watch, error: BaseException, tick: int = -1) -> None:
        """Take an instance out of service. A panic in river's Rust is a BaseException, so all are caught."""
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error
        watch.error = f"{type(error).__name__}: {error}"
        tick = max(tick, watch.readings[watch.instance].tick)
        self.news = True
        watch.read(Reading(Health.ERROR, tick, reason=watch.error))
        self._say(f"monitor {watch.label} is out of service: {watch.error}")

    def _say(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self.news = True
            self._errors.append(message)


def _specs(monitors: Sequence[MonitorSpec], baselines: Sequence[str]) -> tuple[MonitorSpec, ...]:
    return (*monitors, *(MonitorSpec(name, "baseline", {"signal": name}) for name in baselines))


def _written(spec: MonitorSpec) -> str:
    """A monitor as its policy writes it and its class keeps its state, to tell whether it is the same one."""
    return f"{spec.type} {sorted(spec.params.items())} {getattr(MONITORS[spec.type], '_state', ())}"


def _share_scale(watch: _Watch, others: Iterable[_Watch]) -> None:
    """Have monitors that learn the same of a signal learn it once: that is most of their work."""
    own = watch.monitor
    for other in others:
        theirs = other.monitor if other.error is None else None
        if isinstance(own, ScaledMonitor) and isinstance(theirs, ScaledMonitor) and own.share_scale(theirs):
            return
