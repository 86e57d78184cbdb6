"""A policy's rules with their machines, and which rules need not be looked at while nothing is bad."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .expressions import Expression
from .model import Rule
from .phases import Machine
from .types import Phase

_BAD = frozenset({"bad", "alarm", "nonfinite"})


@dataclass(slots=True)
class Lane:
    """A rule with its place in the policy and its machines, one an instance, made when first needed.

    ``wakes`` says that its condition can hold only while some reading is bad.
    """

    place: int
    rule: Rule
    machines: dict[str, Machine] = field(default_factory=dict)
    wakes: bool = field(init=False)

    def __post_init__(self) -> None:
        self.wakes = only_while_bad(self.rule.when)

    def machine(self, instance: str) -> Machine:
        """That of an instance."""
        if instance not in self.machines:
            self.machines[instance] = Machine(self.rule, instance)
        return self.machines[instance]


class Lanes:
    """All lanes of a policy.

    ``before_step`` are those judged before the optimizer's step, ``after_step`` the others; of each, the
    second list leaves out those that only a bad reading wakes.

    Args:
        rules: the policy's.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._lanes = {rule.name: Lane(place, rule) for place, rule in enumerate(rules)}
        lanes = self._lanes.values()
        self.before_step = _with_and_without([lane for lane in lanes if lane.rule.before_step])
        self.after_step = _with_and_without([lane for lane in lanes if not lane.rule.before_step])
        self.wakers = frozenset().union(*(lane.rule.when.names for lane in lanes))
        """What the conditions read: of what is bad, only this can wake a rule."""

    def __getitem__(self, rule: str) -> Lane:
        return self._lanes[rule]

    def get(self, rule: str) -> Lane | None:
        """The lane of a rule; None where the policy does not have it."""
        return self._lanes.get(rule)

    def machines(self) -> Iterator[Machine]:
        """All machines there are, in the order of the policy."""
        for lane in self._lanes.values():
            yield from lane.machines.values()

    @property
    def inactive(self) -> bool:
        """Whether no rule is anywhere but at its beginning."""
        return all(machine.phase is Phase.INACTIVE for machine in self.machines())

    @property
    def suspect(self) -> bool:
        """Whether some rule's condition holds and nothing has been done about it."""
        return any(machine.phase in (Phase.PENDING, Phase.FIRING) for machine in self.machines())

    def rule(self, of: Mapping[str, Any]) -> Rule | None:
        """The rule that a state tells of, if this policy has it, and both are of single instances or not."""
        lane = self._lanes.get(of["rule"])
        same = lane is not None and (lane.rule.foreach is not None) == bool(of["instance"])
        return lane.rule if lane is not None and same else None

    def load_state_dict(self, machines: Sequence[Mapping[str, Any]]) -> None:
        """Take over machines; those of rules that this policy does not have are left out."""
        for lane in self._lanes.values():
            lane.machines.clear()
        for machine in filter(self.rule, machines):
            self._lanes[machine["rule"]].machine(machine["instance"]).load_state_dict(machine)


def only_while_bad(condition: Expression) -> bool:
    """Whether a condition can hold only while some reading is bad, as far as its form tells.

    ``rise.bad and loss.z > 3`` can; ``rise.bad or loss.z > 3`` and ``not rise.bad`` hold at other times too.
    """
    return _only_while_bad(ast.parse(condition.text.replace("\n", " "), mode="eval").body)


def _only_while_bad(node: ast.expr) -> bool:
    match node:
        case ast.BoolOp(op=ast.And()):
            return any(map(_only_while_bad, node.values))
        case ast.BoolOp(op=ast.Or()):
            return all(map(_only_while_bad, node.values))
        case ast.Call(func=ast.Name(id="any" | "all"), args=[each]):  # over no instance at all: unknown
            return _only_while_bad(each)
        case ast.Attribute(attr=word):
            return word in _BAD
    return False


def _with_and_without(lanes: list[Lane]) -> tuple[list[Lane], list[Lane]]:
    return lanes, [lane for lane in lanes if not lane.wakes]
