"""A policy beside the document that it was read from: what is written where, and what was left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Any, NamedTuple

from ..monitors.registry import MONITORS, make_monitor
from ..monitors.types import Monitor, MonitorSpec, Tuned
from .document import Node, Place
from .expressions import Expression
from .model import Mode, Policy, Rule, Rung
from .phases import corrects
from .ranges import Interval
from .types import Action

Path = tuple[str | int, ...]
"""Keys and places in lists, from the document's root."""


class Found(NamedTuple):
    """What a smell found: the rule, the path at which it is written, what is wrong, what to write instead."""

    rule: str
    path: Path
    wrong: str
    instead: str


@dataclass(frozen=True)
class Written:
    """A policy, with its document; None if it was read from none."""

    policy: Policy
    document: Node | None

    def node(self, path: Path) -> Node | None:
        """The node at a path; None where that is not written."""
        node = self.document
        for step in path:
            if node is None:
                return None
            if isinstance(step, int):
                node = node.items[step] if node.items is not None and step < len(node.items) else None
            else:
                entry = (node.entries or {}).get(step)
                node = None if entry is None else entry.node
        return node

    def place(self, path: Path) -> Place:
        """Where a path leads, as far as it is written."""
        while path and self.node(path) is None:
            path = path[:-1]
        node = self.node(path)
        return Place() if node is None else node.place

    @property
    def rules(self) -> Iterator[tuple[Path, Rule]]:
        """Each rule with its path."""
        for index, rule in enumerate(self.policy.rules):
            yield ("rules", index), rule

    @property
    def active(self) -> Iterator[tuple[Path, Rule]]:
        """The rules that would act, were the policy's mode to act."""
        return ((path, rule) for path, rule in self.rules if rule.mode is Mode.ACT)

    @cached_property
    def _monitors(self) -> dict[str, Monitor]:
        return {spec.name: _trial(spec) for spec in self.policy.monitors}

    def monitor(self, name: str) -> Monitor:
        """A monitor of the policy, made anew, for what it declares."""
        return self._monitors[name]

    def bounds(self, rule: Rule) -> Bounded:
        """What the numbers in the conditions of a rule can be at all."""
        return Bounded(self, rule)


@dataclass(frozen=True, slots=True)
class Bounded:
    """The bounds of numbers as a rule writes them: noise is no less than 0, and some scores stop."""

    written: Written
    rule: Rule

    def __call__(self, subject: str) -> Interval:
        owner, _, attribute = subject.rpartition(".")
        if subject.startswith("count(") or attribute == "noise":
            return Interval(low=0)
        name = self.rule.foreach if owner == "this" else owner
        if attribute == "score" and any(spec.name == name for spec in self.written.policy.monitors):
            monitor = self.written.monitor(str(name))
            tuned: Tuned | None = getattr(monitor, "tuned", None)
            if tuned is not None and tuned.stops < inf:
                return Interval(high=tuned.stops * getattr(monitor, "threshold", inf))
        return Interval()


def parameter(spec: MonitorSpec, name: str) -> Any:
    """A parameter of a monitor, its default if it is not written; None if its type has none such."""
    default = MONITORS[spec.type].__init__.__kwdefaults__ or {}
    return spec.params.get(name, default.get(name))


def corrections(rung: Rung) -> tuple[Action, ...]:
    """Its actions, if they change the course of a run that goes on; else none."""
    return rung.actions if corrects(rung.actions) else ()


def rolls_back(rung: Rung) -> bool:
    """Whether the run goes back at this rung."""
    return any(action.name == "rollback" for action in rung.actions)


def conditions(rule: Rule) -> Iterator[tuple[str, Expression]]:
    """What fires or pauses it, by key."""
    yield "when", rule.when
    if rule.unless is not None:
        yield "unless", rule.unless


def _trial(spec: MonitorSpec) -> Monitor:
    signal = spec.params.get("signal")
    return make_monitor(spec, signal.replace("*", "any") if isinstance(signal, str) else None)
