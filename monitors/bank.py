"""All monitors of a policy, side by side: one sample in, all readings out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Final

from .calm import LOOK_EVERY
from .changes import Change, ChangeWatch
from .judge import Judge
from .plan import Plan, Planned
from .registry import MONITORS, make_monitor
from .types import Monitor, MonitorSpec, Reading, Sample
from .watch import Line, Star, Watch

Readings = dict[str, dict[str, Reading]]
"""Monitor name -> instance -> reading. A monitor without a star has the one instance ``""``."""

MAX_INSTANCES: Final = 256
"""Instances that one star may make: beyond it new names are left unwatched, and one error says so."""

_MAX_NAMES: Final = 4096  # names of signals remembered as looked at already
_NUMBERS = ("value", "score", "threshold", "level", "noise")


class MonitorBank:
    """Runs the monitors of a policy and a baseline for each signal whose statistics its expressions read.

    A monitor that raises reads ERROR from then on and is not asked again; the others go on. ``readings``
    are the current ones, the same dictionaries at every tick with new readings in them.

    Whoever does not read them as long as all is well says so (``lazily``): what cannot change any health then
    waits, for some ``calm.BLOCK`` measurements, and is judged in one go. Whenever ``readings`` or the state
    are asked for they are as if all had been judged as it came; ``news`` comes at the same tick.

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
        self._judge = Judge()
        self._lateness: dict[str, int] = {}
        self.planned: Plan | None = None
        """What is known ahead of the run, if it was told."""
        self._start()
        self._share_scales()

    def take_specs(self, specs: Sequence[MonitorSpec], baselines: Sequence[str]) -> None:
        """Go on with the monitors of an edited policy: those that are written as before keep their state."""
        state = self.state_dict()
        self._specs, self._lateness = _specs(specs, baselines), {}
        self.load_state_dict(state)
        self._judge.news = True

    def _start(self) -> None:
        """Make all monitors that need no name to be seen first."""
        self._readings: Readings = {}
        self._readings_before_step: Readings = {}
        self._before_step: list[Watch] = []
        self._after_step: list[Watch] = []
        self._lines_before: dict[tuple[str, ...], Line] = {}
        self._lines: dict[str, Line] = {}  # of those after the step that read one signal
        self._of_several: list[Watch] = []  # and those that read more
        self._changes = ChangeWatch()
        self._look_at = 0  # tick at which those that were not measured are asked too
        self._stars: list[Star] = []
        self._seen: set[str] = set()
        self._judged_tick = self._updated_tick = -1
        for spec in self._specs:
            self._readings[spec.name] = {}
            if "*" in str(spec.params.get("signal", "")):
                star = Star(spec)
                self._stars.append(star)
                self._lateness[spec.name] = star.make("any").lateness
            else:
                watch = self._add(spec.name, "", make_monitor(spec))
                self._lateness[spec.name] = watch.monitor.lateness

    @property
    def news(self) -> bool:
        """Some health has changed, or something went wrong; whoever has looked says when to begin anew."""
        return self._judge.news

    @news.setter
    def news(self, news: bool) -> None:
        self._judge.news = news

    @property
    def readings(self) -> Readings:
        """The current readings."""
        self.settle()
        return self._readings

    def settle(self) -> None:
        """Judge what waits."""
        for line in (*self._lines_before.values(), *self._lines.values()):
            if line.ticks:
                self._judge.settle(line)

    def judge_step(self, sample: Sample, *, lazily: bool = False) -> Readings:
        """Update the monitors that are judged before ``optimizer.step()``; returns their readings.

        If ``lazily``, those whose health stays as it is may be some ticks old.
        """
        self._admit(sample)
        self._judge_before(sample, lazily)
        return self._readings_before_step

    def update(self, sample: Sample, *, lazily: bool = False) -> Readings:
        """Update all others, and those too if ``judge_step`` has not seen this tick; returns all readings.

        If ``lazily``, those whose health stays as it is may be some ticks old.
        """
        self._admit(sample)
        tick = sample.tick
        if tick != self._judged_tick:
            self._judge_before(sample, lazily)
        lazily = lazily and self._usual(tick, self._updated_tick)
        self._updated_tick = tick
        change = self._changes.take(sample)
        if change is not None:
            self._expect(change)
        if tick >= self._look_at:
            self._look_at = tick + LOOK_EVERY
            for name, line in self._lines.items():
                if not lazily or name not in sample.signals:
                    self._judge.close(line)
                    self._judge.update(line.members, sample)
            if not lazily:
                self._judge.update(self._of_several, sample)
                return self._readings
        # A monitor whose signal was not measured has nothing to say, and most signals are at few ticks.
        lines = self._lines
        for name, value in sample.signals.items():
            if name in lines:
                line = lines[name]
                if not lazily:
                    self._judge.close(line)
                    self._judge.update(line.members, sample)
                elif not line.keep(tick, value):
                    self._judge.begin(line, sample)
                elif line.others:
                    self._judge.update(line.others, sample)
        if self._of_several:
            self._judge.update(self._of_several, sample)
        return self._readings

    def _judge_before(self, sample: Sample, lazily: bool) -> None:
        tick, signals = sample.tick, sample.signals
        lazily = lazily and self._usual(tick, self._judged_tick)
        self._judged_tick = tick
        if not lazily:
            for line in self._lines_before.values():
                self._judge.close(line)
            self._judge.update(self._before_step, sample)
            return
        for line in self._lines_before.values():
            if not line.keep_of(tick, signals):
                self._judge.begin(line, sample)
            elif line.others:
                self._judge.update(line.others, sample)

    def _usual(self, tick: int, last: int) -> bool:
        """Whether ticks go on without a gap after which a monitor says more than what was measured."""
        return last < tick <= last + LOOK_EVERY and self._look_at <= tick + LOOK_EVERY

    def plan(self, plan: Plan) -> None:
        """Tell those that go by it what is known ahead of the run, later instances too; it is not rewound."""
        self.planned = plan
        self.settle()
        for watch in (*self._before_step, *self._after_step):
            self._tell(watch)

    def _tell(self, watch: Watch) -> None:
        if self.planned is not None and watch.error is None and isinstance(watch.monitor, Planned):
            try:
                watch.monitor.plan(self.planned)
            except BaseException as error:  # noqa: BLE001
                self._judge.fail(watch, error)

    @property
    def on_edge(self) -> bool:
        """Whether a monitor that is judged before the step may alarm at the next one, if it is at all bad."""
        return any(getattr(watch.monitor, "on_edge", False) for watch in self._before_step)

    def lateness(self, monitor: str) -> int:
        """By how many ticks a monitor puts the onset of a change too late, at worst in 9 of 10 cases.

        Monitors are late by so many measurements; where their signal is measured at every tenth tick, that is
        ten times as many ticks, and nine more: the change may have come right after the measurement before.
        """
        self.settle()
        watches = (watch for watch in (*self._before_step, *self._after_step) if watch.name == monitor)
        cadence = max((getattr(watch.monitor, "cadence", 1) for watch in watches), default=1)
        return self._lateness[monitor] * cadence + cadence - 1

    def facts(self) -> dict[str, dict[str, float]]:
        """The finite numbers of all readings: ``facts["loss"]["level"]``, instances as ``name[instance]``."""
        self.settle()
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
        return self._judge.take_errors()

    def state_dict(self) -> dict[str, Any]:
        """The state of every instance with its reading, as what ``json.dumps`` accepts."""
        self.settle()
        state: dict[str, dict[str, Any]] = {name: {} for name in self._readings}
        for watch in (*self._before_step, *self._after_step):
            own: dict[str, Any] | None = None
            if watch.error is None:
                try:
                    own = watch.monitor.state_dict()
                except BaseException as error:  # noqa: BLE001
                    self._judge.fail(watch, error)
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
                    self._judge.fail(watch, error)
        self._share_scales()

    def _share_scales(self) -> None:
        """Only now, when every monitor has a state of its own: what a state lacks starts anew, alone."""
        for watches in (self._before_step, self._after_step):
            for place, watch in enumerate(watches):
                watch.share_scale(watches[:place])

    def _add(self, name: str, instance: str, monitor: Monitor) -> Watch:
        watch, signals = Watch(name, instance, monitor, self._readings[name]), monitor.signals
        line: Line | None = None
        if monitor.before_step:
            self._before_step.append(watch)
            self._readings_before_step[name] = watch.readings
            line = self._lines_before.setdefault(signals, Line(signals))
        else:
            self._after_step.append(watch)
            if len(signals) == 1:
                line = self._lines.setdefault(signals[0], Line(signals))
        if line is None:
            self._of_several.append(watch)
        else:
            self._judge.close(line)
            line.add(watch)
        self._judge.news = True
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
                if instance is not None and instance not in self._readings[star.spec.name]:
                    self._admit_instance(star, instance)
        self._seen |= sample.signals.keys()

    def _admit_instance(self, star: Star, instance: str) -> None:
        name = star.spec.name
        if len(self._readings[name]) < MAX_INSTANCES:
            watch = self._add(name, instance, star.make(instance))
            watch.share_scale(self._before_step if watch.monitor.before_step else self._after_step)
        else:
            self._judge.say(
                f"monitor {name} watches {MAX_INSTANCES} names already: further ones are left out"
            )

    def _expect(self, change: Change) -> None:
        """Tell all monitors of a change that is meant."""
        for line in (*self._lines_before.values(), *self._lines.values()):
            if any(change.effect_on(name) is not None for name in line.signals):
                self._judge.close(line)
                line.pause()
        for watch in (*self._before_step, *self._after_step):
            if watch.error is None:
                try:
                    watch.monitor.expect(change)
                except BaseException as error:  # noqa: BLE001
                    self._judge.fail(watch, error, change.tick)


def _specs(monitors: Sequence[MonitorSpec], baselines: Sequence[str]) -> tuple[MonitorSpec, ...]:
    return (*monitors, *(MonitorSpec(name, "baseline", {"signal": name}) for name in baselines))


def _written(spec: MonitorSpec) -> str:
    """A monitor as its policy writes it and its class keeps its state, to tell whether it is the same one."""
    return f"{spec.type} {sorted(spec.params.items())} {getattr(MONITORS[spec.type], '_state', ())}"
