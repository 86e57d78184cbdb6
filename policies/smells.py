"""Smells of a policy: what is valid, but will not do what its author wants.

Each smell is one small function in one table; it looks at the checked policy and yields what it found, with
the path in the document at which it is written. Only what is certain is told, or what the monitors
themselves declare: a smell that a sound policy has is a wrong smell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from .document import Place, Problem, read_document
from .model import Policy
from .smells_conditions import always_holds, never_holds, onset_is_compared, unless_covers_when
from .smells_ladder import (
    acts_for_good,
    budget_never_spent,
    default_budget,
    limits_too_tight,
    no_pause,
    only_skips_and_no_end,
    opposite_acts,
    rung_after_stop,
    rung_beyond_budget,
)
from .smells_verify import (
    before_of_a_rollback,
    expectation_is_constant,
    level_is_old,
    no_onset_told,
    one_snapshot,
    reach_too_short,
    verdict_overlapped,
    verdict_within_cooldown,
)
from .written import Found, Written

SMELLS: Mapping[str, Callable[[Written], Iterator[Found]]] = {
    smell.__name__.replace("_", "-"): smell
    for smell in (
        never_holds,
        always_holds,
        unless_covers_when,
        onset_is_compared,
        default_budget,
        budget_never_spent,
        rung_after_stop,
        rung_beyond_budget,
        limits_too_tight,
        only_skips_and_no_end,
        no_pause,
        acts_for_good,
        opposite_acts,
        expectation_is_constant,
        before_of_a_rollback,
        level_is_old,
        verdict_within_cooldown,
        verdict_overlapped,
        no_onset_told,
        one_snapshot,
        reach_too_short,
    )
}
"""Every smell, by the name under which it is told."""


@dataclass(frozen=True, slots=True)
class Smell:
    """One smell: which, of what rule (``""``: of none), where, what is wrong, and what to write instead."""

    name: str
    rule: str
    source: str
    place: Place
    wrong: str
    instead: str

    def __str__(self) -> str:
        of = f"rule '{self.rule}': " if self.rule else ""
        return str(Problem(self.source, self.place, f"smell: {of}{self.wrong}: {self.instead}"))


def smells_of(policy: Policy) -> tuple[Smell, ...]:
    """All smells of a policy, in the order of their places.

    Places are those of ``policy.text``, which is the merged one where the policy extends another; a policy
    that was not read from one has all of them at its beginning.
    """
    written = Written(policy, read_document(policy.text, []))
    source = f"{policy.source} (merged)" if policy.extends else policy.source
    found = [
        Smell(name, each.rule, source, written.place(each.path), each.wrong, each.instead)
        for name, smell in SMELLS.items()
        for each in smell(written)
    ]
    return tuple(sorted(found, key=lambda smell: smell.place))
