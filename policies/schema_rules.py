"""The ``rules:`` of a policy: their expressions, their ladders, and what contradicts what."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from .actions import GO_BACK
from .document import Fault, Node
from .expression_compiler import compile_expression, compile_number
from .expression_references import Scope
from .expressions import Expression
from .model import DEFAULT_BUDGET, Approval, Budget, Mode, Rule, Rung, SnapshotPlan, Verify
from .names import Signals, nearest
from .schema_ladder import Allowed, arms_schema, ladder_schema, read_ladder
from .schema_monitors import KnownMonitor
from .shapes import Choice, Field, Invalid, Later, Name, OrNothing, Record, Schema, Text, Whole
from .types import Reply

_RULE_NAME = Name(
    re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}").fullmatch, "a word of letters, digits, '-' and '_'"
)


class _Otherwise(Enum):
    """What silence means to a decision that waits for approval."""

    YES = Reply.YES.value
    NO = Reply.NO.value


def _budget_objection(values: Mapping[str, Any]) -> str | None:
    if values["max"] is not None and values["max"] < values["acts"]:
        return f"budget.max must be at least budget.acts, got {values['max']} below {values['acts']}"
    return None


_BUDGET = Record(
    {"acts": Field(Whole(1)), "per": Field(Whole(1)), "max": Field(OrNothing(Whole(1)), None)},
    Budget,
    _budget_objection,
    prefix="budget.",
)
_APPROVAL = Approval()
_APPROVE = Record(
    {
        "within": Field(Whole(1), _APPROVAL.within),
        "otherwise": Field(Choice(_Otherwise, as_word=True), _APPROVAL.otherwise.value),
    },
    lambda within, otherwise: Approval(within, Reply(otherwise)),
    prefix="approve.",
)


@dataclass(frozen=True, slots=True)
class _Approve:
    """``true``, ``false``, or a mapping that says for how long, and what silence means."""

    def read(self, node: Node, name: str) -> Approval | None:
        """When a rule's acts wait for a yes; None where they do not."""
        if isinstance(node.value, bool):
            return _APPROVAL if node.value else None
        if node.entries is None:
            raise Invalid.at(node, f"{name} must be true, false or a mapping, got {node}")
        approval: Approval = _APPROVE.read(node, name)
        return approval

    def schema(self) -> Schema:
        """Either of the two."""
        return {"anyOf": [{"type": "boolean"}, _APPROVE.schema()]}


_VERIFY = Record({"within": Field(Whole(1)), "expect": Field(Later("condition"))}, prefix="verify.")
_RULE = Record(
    {
        "name": Field(_RULE_NAME),
        "when": Field(Later("condition")),
        "unless": Field(Later("condition"), None),
        "foreach": Field(OrNothing(Text()), None),
        "for": Field(Whole(1), 1),
        "cooldown": Field(Whole(0), 0),
        "budget": Field(_BUDGET, DEFAULT_BUDGET),
        "ladder": Field(Later("ladder")),
        "verify": Field(Later("verify"), None),
        "mode": Field(Choice(Mode), Mode.ACT),
        "exclusive": Field(OrNothing(_RULE_NAME), None),
        "approve": Field(_Approve(), None),
    }
)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a rule can refer to."""

    signals: Signals
    monitors: Mapping[str, KnownMonitor]
    snapshots: SnapshotPlan


def read_rules(node: Node | None, around: Surroundings, faults: list[Fault]) -> tuple[Rule, ...]:
    """The rules in order; those with mistakes are left out and their faults told."""
    if node is None or node.value is None:
        return ()
    if node.items is None:
        faults.append(Fault(node.place, f"rules must be a list, got {node}"))
        return ()
    rules: list[Rule] = []
    lines: dict[str, int] = {}
    for number, item in enumerate(node.items, start=1):
        named = (item.entries or {}).get("name")
        name = named.node.text if named else ""
        reader = _RuleReader(item, around)
        rule = reader.read()
        called = f"rule '{name}'" if name else f"rule {number}"
        faults += [Fault(place, f"{called}: {message}") for place, message in reader.faults]
        if named and name in lines:
            faults.append(
                Fault(named.node.place, f"{called}: the rule in line {lines[name]} has the same name")
            )
        lines.setdefault(name, item.place.line)
        if rule:
            rules.append(rule)
    return tuple(rules)


class _RuleReader:
    """Reads one rule, and goes on after each mistake."""

    def __init__(self, node: Node, around: Surroundings) -> None:
        self._around = around
        self._entries = node.entries or {}
        self._values, self.faults = _RULE.collect(node, "a rule")

    def read(self) -> Rule | None:
        """The rule, or None if it has faults."""
        values = self._values
        scope = self._scope()
        when = self._expression(values.get("when"), "when", scope)
        unless = self._expression(values.get("unless"), "unless", scope)
        before_step = all(read is not None and self._before_step(read) for read in (when, unless or when))
        allowed = Allowed(
            this=scope.foreach is not None,
            skip_step=before_step or when is None,
            waits=values.get("approve") is not None,
            reads_lr=when is None or "lr" in when.signals,
            rollback=self._around.snapshots.keep > 0,
            judge=lambda node: self._expression(node, "judge", scope),
        )
        ladder = read_ladder(values["ladder"], allowed, self.faults) if "ladder" in values else ()
        verify = self._verify(scope, ladder)
        if self.faults or when is None:
            return None
        return Rule(
            name=values["name"],
            when=when,
            ladder=ladder,
            foreach=values["foreach"],
            for_measurements=values["for"],
            cooldown=values["cooldown"],
            budget=values["budget"],
            verify=verify,
            unless=unless,
            mode=values["mode"],
            before_step=before_step,
            exclusive=values["exclusive"],
            approve=values["approve"],
        )

    def _fault(self, node: Node, message: str) -> None:
        self.faults.append(Fault(node.place, message))

    def _scope(self) -> Scope:
        """The names that its expressions may use. A wrong ``foreach`` is told once, not at each ``this``."""
        starred = {name: monitor.starred for name, monitor in self._around.monitors.items()}
        foreach = self._values.get("foreach")
        if foreach is not None and foreach not in starred:
            names = [name for name in starred if starred[name]]
            self._fault(
                self._entries["foreach"].node, f"there is no monitor '{foreach}'{nearest(foreach, names)}"
            )
        elif foreach is not None and not starred[foreach]:
            self._fault(
                self._entries["foreach"].node,
                f"foreach needs a monitor whose signal has a star, and that of '{foreach}' has none",
            )
        extra = {name: monitor.extra for name, monitor in self._around.monitors.items()}
        known = {**starred, **({foreach: True} if foreach else {})}
        forecasts = {
            str(monitor.spec.params["signal"]): name
            for name, monitor in self._around.monitors.items()
            if monitor.spec is not None and monitor.spec.type == "forecast"
        }
        return Scope(known, self._around.signals, foreach, extra=extra, forecasts=forecasts)

    def _expression(self, node: Node | None, key: str, scope: Scope) -> Expression | None:
        if node is None:
            return None
        text = node.text.strip()
        if not text:
            what = "number" if key == "judge" else "condition"
            self._fault(node, f"{key} must be a {what}, got {node}")
            return None
        lead = node.text.index(text)

        def report(character: int, message: str) -> None:
            self.faults.append(Fault(node.place_of(lead + character), f"{key}: {message}"))

        return (compile_number if key == "judge" else compile_expression)(text, scope, report)

    def _before_step(self, when: Expression) -> bool:
        monitors = (self._around.monitors.get(name) for name in when.monitors)
        return not when.signals and all(monitor is None or monitor.before_step for monitor in monitors)

    def _verify(self, scope: Scope, ladder: tuple[Rung, ...]) -> Verify | None:
        node = self._values.get("verify")
        if node is None:
            return None
        values, faults = _VERIFY.collect(node, "verify")
        self.faults += faults
        expect = self._expression(values.get("expect"), "verify.expect", replace(scope, verifies=True))
        goes_back = any(action.name in GO_BACK for rung in ladder for action in rung.actions)
        if expect is not None and expect.uses_target and not goes_back:
            self._fault(
                values["expect"],
                "verify.expect: 'target' is that of a rollback, and no rung rolls back",
            )
        return Verify(values["within"], expect) if expect and "within" in values else None


def rules_schema() -> dict[str, Schema]:
    """The rules, and what of them is read later, by its kind."""
    return {
        "rules": {"type": ["array", "null"], "items": _RULE.schema()},
        "condition": Text().schema(),
        "number": Text().schema(),
        "ladder": ladder_schema(),
        "arms": arms_schema(),
        "verify": _VERIFY.schema(),
    }
