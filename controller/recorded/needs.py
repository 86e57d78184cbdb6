"""Which signals a policy reads, and what of it is blind where a run never measured one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ...monitors.registry import make_monitor
from ...monitors.types import MonitorSpec
from ...policies.model import Policy
from ...policies.names import matches


@dataclass(frozen=True, slots=True)
class Missing:
    """A signal that was never measured, the monitors that read it, and the rules that cannot have fired.

    A monitor that reads others as well, or a rule that does, is not blind for that.
    """

    signal: str
    monitors: tuple[str, ...]
    rules: tuple[str, ...]

    def __str__(self) -> str:
        """In words."""
        said = [f"{self.signal} was never measured"]
        if self.monitors:
            said.append(f"{_names('monitor', self.monitors)} saw nothing of it")
        if self.rules:
            said.append(f"{_names('rule', self.rules)} cannot have fired")
        return f"{said[0]}: {'; '.join(said[1:])}" if said[1:] else said[0]


class Needs:
    """The signals that a policy reads. ``patterns`` are their names; one with a star stands for many."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        own = {spec.name: _signals(spec) for spec in policy.monitors}
        expressions = [expression for rule in policy.rules for expression in rule.expressions]
        plain = [*policy.baselines, *(name for each in expressions for name in sorted(each.signals))]
        self._reads: Mapping[str, tuple[str, ...]] = {**{name: (name,) for name in plain}, **own}
        self._monitors = tuple(own)
        self.patterns = tuple(dict.fromkeys(name for names in self._reads.values() for name in names))

    def wants(self, name: str) -> bool:
        """Whether anything reads a signal of this name."""
        return any(matches(name, pattern) for pattern in self.patterns)

    def blind(self, measured: Collection[str]) -> frozenset[str]:
        """The monitors, and the signals that a rule reads itself, of which nothing was measured."""
        absent = self._absent(measured)
        return frozenset(reader for reader, names in self._reads.items() if absent.issuperset(names))

    def dead(self, measured: Collection[str]) -> frozenset[str]:
        """The rules that cannot have fired: all that they go by was never measured."""
        blind = self.blind(measured)
        return frozenset(
            rule.name
            for rule in self._policy.rules
            if rule.foreach in blind or (rule.when.names and rule.when.names <= blind)
        )

    def missing(self, measured: Collection[str]) -> list[Missing]:
        """The signals that are needed and not among those measured."""
        dead = self.dead(measured)
        when = {rule.name: rule.when.names for rule in self._policy.rules if rule.name in dead}
        found = []
        for signal in sorted(self._absent(measured), key=self.patterns.index):
            readers = {reader for reader, names in self._reads.items() if signal in names}
            rules = tuple(rule for rule, names in when.items() if names & readers)
            found.append(Missing(signal, tuple(n for n in self._monitors if n in readers), rules))
        return found

    def _absent(self, measured: Collection[str]) -> set[str]:
        return {each for each in self.patterns if not any(matches(name, each) for name in measured)}


def _signals(spec: MonitorSpec) -> tuple[str, ...]:
    written = str(spec.params.get("signal", ""))
    if "*" not in written:
        return make_monitor(spec).signals
    trial = written.replace("*", "any")
    return tuple(written if name == trial else name for name in make_monitor(spec, trial).signals)


def _names(what: str, names: Collection[str]) -> str:
    return f"{what} {', '.join(names)}" if len(names) == 1 else f"{what}s {', '.join(names)}"
