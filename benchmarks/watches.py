"""What watches a run in the benchmark of detection: monitors alone, the baseline policy, and peers.

Each takes a sample and gives the onsets of the episodes that begin with it, None for one without an onset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from peers import PEERS, Peer

from midcourse.monitors.bank import MonitorBank
from midcourse.monitors.types import MonitorSpec, Sample
from midcourse.policies.judging import Alarms, changes_the_run
from midcourse.policies.model import Mode
from midcourse.policies.policy import load_policy
from midcourse.policies.replay import Replay
from midcourse.policies.types import Disposition

POLICY_ACTS = "baseline policy, acts"
POLICY_SEES = "baseline policy, any monitor"


class Watch(Protocol):
    """Something that watches a run."""

    def update(self, sample: Sample) -> Sequence[int | None]:
        """The onsets of the episodes that begin with this sample."""
        ...


class Monitors:
    """Monitors in a bank of their own: an episode begins where one of them turns bad."""

    def __init__(self, *specs: MonitorSpec) -> None:
        self._bank = MonitorBank(specs)
        self._alarms = Alarms(self._bank)

    def update(self, sample: Sample) -> Sequence[int | None]:
        """Take a sample."""
        self._bank.update(sample)
        return [reading.onset for _, _, reading in self._alarms.begun()]


class Policy:
    """The shipped baseline policy in observe mode: an episode is a decision that would change the run."""

    def __init__(self) -> None:
        self.replay = Replay(replace(load_policy("baseline"), mode=Mode.OBSERVE))

    def update(self, sample: Sample) -> Sequence[int | None]:
        """Take a sample."""
        return [
            decision.onset
            for decision in self.replay.take(sample).decisions
            if decision.disposition is not Disposition.SUPPRESSED and changes_the_run(decision.actions)
        ]


class Other:
    """A peer: an episode begins at the first of consecutive samples at which it does something."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._before = False

    def update(self, sample: Sample) -> Sequence[int | None]:
        """Take a sample."""
        now = self._peer.alarms(sample.signals["loss"], sample.signals.get("grad_norm"))
        begins = now and not self._before
        self._before = now
        return [None] if begins else []


class Sees:
    """What any monitor of a policy says, whether or not a rule acts on it; to be updated after the policy."""

    def __init__(self, policy: Policy) -> None:
        self._alarms = Alarms(policy.replay.bank)

    def update(self, sample: Sample) -> Sequence[int | None]:
        """The episodes that began when the policy took the sample."""
        return [reading.onset for _, _, reading in self._alarms.begun()]


_ALONE = (
    MonitorSpec("", "guard", {}),
    *(
        MonitorSpec("", kind, {"signal": "loss"})
        for kind in ("spike", "divergence", "sustained_rise", "e_detector", "stalled")
    ),
    *(MonitorSpec("", kind, {"signal": "loss"}) for kind in ("adwin", "page_hinkley")),
    MonitorSpec("", "sustained_rise", {"signal": "loss/source=*"}),
    MonitorSpec("", "sustained_rise", {"signal": "grad_norm"}),
    MonitorSpec("", "sustained_rise", {"signal": "update_ratio"}),
    MonitorSpec("", "too_good", {"signal": "loss"}),
    MonitorSpec("", "shift", {"signal": "grad_norm"}),
    MonitorSpec("", "jump", {"signal": "param_norm"}),
    MonitorSpec("", "jump", {"signal": "update_ratio"}),
    MonitorSpec("", "frozen", {"signal": "update_ratio"}),
)

ALONE = {f"{spec.type} {spec.params.get('signal', '')}".rstrip(): replace(spec, name="it") for spec in _ALONE}
"""Monitors that are judged alone, with their defaults."""


def watches(steps: int) -> dict[str, Watch]:
    """All of them anew, for a run of so many steps; to be updated in this order."""
    policy = Policy()
    made: dict[str, Watch] = {POLICY_ACTS: policy, POLICY_SEES: Sees(policy)}
    made |= {name: Monitors(spec) for name, spec in ALONE.items()}
    made |= {name: Other(make(steps)) for name, make in PEERS.items()}
    return made


def signal_of(name: str) -> str:
    """The signal that a watch needs to say anything."""
    return str(ALONE[name].params.get("signal", "loss")) if name in ALONE else "loss"
