"""From what rank 0 decides to what all processes do: orders wait until they can be obeyed together.

Rank 0 raises a flag in the control slot of a tick's vector; at the next batch request every process takes
the order and does it. With one process there is nobody to wait for.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, TypeVar

from ..monitors.types import Sample
from ..policies.actions import GO_BACK
from ..policies.types import Decision, Outcome, Result, Status
from .actuators.act import carry_out
from .metrics import Metrics
from .news import News
from .pilot import Pilot
from .run import Run
from .sensing import in_force, keep_only, put_in_force
from .trial import Trial

log = logging.getLogger("midcourse")

P = ParamSpec("P")
T = TypeVar("T")

COMMAND = 1
"""Flag in the control slot: an order waits for the next batch request."""

WATCH = 16
"""Flag in the control slot: the step that is being made may have to be skipped, so all wait for rank 0."""

_LEAP = 4.0  # loss or gradient norm against the step before: beyond it all processes wait for rank 0

SWITCHED_OFF = "nothing may be changed any more: the policy was switched off"


@dataclass(frozen=True, slots=True)
class Order:
    """What rank 0 has all processes do at the next batch request."""

    decision: Decision | None = None
    news: News = field(default_factory=News)


class Orders:
    """Keeps rank 0's order until it is due, and has it done.

    Args:
        run: What is steered.
        pilot: Decides; None on ranks other than 0.
        metrics: Shows the overrides in force; None on ranks other than 0.
        arrive: Has all samples judged that are still on their way from the device.
        clock: Seconds.
    """

    def __init__(
        self,
        run: Run,
        pilot: Pilot | None,
        metrics: Metrics | None,
        arrive: Callable[[], object],
        clock: Callable[[], float],
    ) -> None:
        self.due = False
        self.stirs = True
        """Whether there is anything to do at the next batch request: mostly not."""
        self.healthy = True
        self._run = run
        self._pilot = pilot
        self._alone = pilot if run.ranks.world == 1 else None
        self._metrics = metrics
        self._arrive = arrive
        self._clock = clock
        self.pending: Order | None = None
        """What waits to be obeyed, on rank 0."""
        self._watched = False
        self._before: Mapping[str, float] = {}
        self._trial: Trial | None = None
        self._shown_multiplier: float | None = None
        self._shown_weights: Mapping[str, float] | None = None

    def state_dict(self) -> dict[str, Any]:
        """What waits to be obeyed, and whether all is well."""
        return {"due": self.due, "healthy": self.healthy, "pending": self.pending}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with another's orders."""
        self.due, self.healthy, self.pending = state["due"], state["healthy"], state["pending"]
        self.stirs = True

    def gone_on(self) -> None:
        """All of another process' state was taken over: no act is waited for that will not come any more."""
        self.stirs = True
        if self._pilot is not None:
            waiting = None if self.pending is None else self.pending.decision
            if not self._pilot.land(waiting, self._run.clock.tick) and waiting is not None:
                self.pending = self._without_act(
                    self.pending, "the policy has changed and decides so no more"
                )
            self._regulate_again(self._pilot)

    @property
    def flags(self) -> int:
        """What rank 0 puts into the control slot for the others."""
        flags = 0 if self.pending is None else COMMAND
        if self._run.ranks.world > 1 and self._pilot is not None and self._pilot.bank.on_edge:
            flags |= WATCH
        return flags

    @property
    def may_act(self) -> bool:
        """Whether decisions change the run, and nothing is under suspicion: a state worth keeping."""
        return self._pilot is not None and self._pilot.acting and self.healthy and not self.trying

    @property
    def trying(self) -> bool:
        """Whether a trial is under way: what the run goes through then is nothing to keep yet."""
        return self._trial is not None

    def heed(self, flags: int) -> None:
        """Take the flags that came with a reduced vector."""
        if flags & COMMAND:
            self.due = self.stirs = True
        self._watched = bool(flags & WATCH)

    def guard(self, sample: Sample) -> bool:
        """Before the update: skip it where a rule says so; all ranks see the same numbers, rank 0 decides."""
        if self._alone is not None:
            decision = self._alone.judge_step(sample)
        else:
            decision = self._share_if_suspicious(self._ask(Pilot.judge_step, sample), sample)
        if decision is None:
            return False
        if not any(action.name == "skip_step" for action in decision.actions):
            self._hold(decision)
            return False
        return self._carry_out(decision).status is Status.APPLIED

    def judge(self, sample: Sample) -> None:
        """After the update: keep what is decided, unless the sample is of an abandoned branch."""
        pilot = self._pilot
        if pilot is None or sample.branch != self._run.clock.branch:
            return
        judged = self._ask(Pilot.judge, sample) if self._alone is None else pilot.judge(sample)
        if judged is None:
            return
        decision, self.healthy = judged
        if sample.tick <= self._run.ring.last_tick:
            self._run.ring.judged(sample.tick, self.healthy)
        if self._trial is not None:
            self._trial.measure(sample.step, pilot.measure(self._trial.decision, sample.tick))
        if decision is not None or pilot.news is not None:
            news, pilot.news = pilot.news, None
            self._hold(decision, news)

    def obey(self, *, leaving: bool) -> None:
        """Between two updates: do what is due, let ramps go on, show what is in force.

        Where the process is ``leaving``, a trial is put off: it begins anew when the run is resumed.
        """
        run = self._run
        if self._trial is not None and leaving:
            trial, self._trial = self._trial, None
            trial.end("put off: the process is asked to end")
            self._hold(trial.decision)
        else:
            if self.due:
                self.due = False
                order = run.ranks.share(self._taken())
                if order is not None:
                    self._do(order)
            if self._trial is not None:
                self._follow(self._trial, self._trial.advance())
        if run.mix is not None and run.stopped is None:
            run.mix.follow(run.clock.tick + 1)
        if self._metrics is not None:
            self._show_overrides(self._metrics)
        rate, mix = run.learning_rate, run.mix
        self.stirs = not (
            (self._trial is None and not self.due and not run.layers.live)
            and (rate.multiplier == rate.regulated == 1.0)
            and (mix is None or mix.plain)
        )

    def break_off(self, reason: str, *, put_back: bool = True) -> None:
        """End the trial that is under way, if there is one: the state before it is in force again.

        Not so (``put_back``) where another state was loaded meanwhile.
        """
        self.stirs = True
        if self._trial is not None:
            self._follow(self._trial, self._trial.end(reason, put_back=put_back))

    def drop(self, reason: str) -> None:
        """Nothing will be done any more about what was decided: it failed for this reason."""
        order, self.pending = self.pending, None
        self.due = False
        if order is not None and order.decision is not None and self._pilot is not None:
            self._pilot.settle(Outcome(order.decision.id, Status.FAILED, self._run.clock.tick, reason))

    def _ask(self, part: Callable[Concatenate[Pilot, P], T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Have the pilot do its part; with several processes its failure ends the deciding alone."""
        if self._pilot is None:
            return None
        if self._run.ranks.world == 1:
            return part(self._pilot, *args, **kwargs)
        try:
            return part(self._pilot, *args, **kwargs)
        except Exception:
            log.exception("Midcourse failed: the training goes on, and nothing is decided any more")
            if self._metrics is not None:
                self._metrics.error("controller")
            self._pilot = None
            return None

    def _share_if_suspicious(self, decision: Decision | None, sample: Sample) -> Decision | None:
        """Rank 0's decision, at once, where the numbers that all ranks see may call for one.

        What it decides on other grounds (an alarm that lasts, say) waits for the next batch request.
        """
        signals, before = sample.signals, self._before
        watched, self._watched = self._watched, False
        leaps = any(
            abs(signals.get(name, 0.0)) > _LEAP * abs(before.get(name, math.inf))
            for name in ("loss", "grad_norm")
        )
        if (
            watched
            or leaps
            or signals.get("grad_norm") == 0.0
            or not all(map(math.isfinite, signals.values()))
        ):
            shared: Decision | None = self._run.ranks.share(decision)
            if shared is None:  # else the next one is held against this one's predecessor too
                self._before = signals
            return shared
        self._before = signals
        self._hold(decision)
        return None

    def _hold(self, decision: Decision | None, news: News | None = None) -> None:
        if self._pilot is None or (decision is None and not news):
            return
        kept = self.pending or Order()
        if news:
            kept.news.extend(news)
        self.pending = Order(decision or kept.decision, kept.news)
        if self._run.ranks.world == 1:
            self.due = self.stirs = True

    def _taken(self) -> Order | None:
        """Rank 0's order; of what was to change the run nothing is left once nothing may any more."""
        order, self.pending = self.pending, None
        if order is None or self._pilot is None:
            return order
        self._ask(Pilot.look_first, self._run.clock.tick)
        if self._pilot is None or self._pilot.acting:
            return order
        order.news.moves.clear()
        return self._without_act(order, SWITCHED_OFF)

    def _without_act(self, order: Order | None, reason: str) -> Order | None:
        if order is None or order.decision is None:
            return order
        self._ask(Pilot.settle, Outcome(order.decision.id, Status.REFUSED, self._run.clock.tick, reason))
        return Order(None, order.news)

    def _do(self, order: Order) -> None:
        run, news = self._run, order.news
        touched: set[str] = set()
        if news.halt:
            self.break_off(SWITCHED_OFF)
        for asked in news.asked:
            self._keep_target(asked)
        for answered in news.answered:
            run.ring.unpin(_question(answered))
        if news.withdraw:
            touched |= run.layers.clear()
        if news.anew:
            keep_only(run, ())
        for verdict in news.verdicts:
            if verdict.result is not Result.DID_NOT_HELP:
                run.ring.unpin(verdict.decision_id)
                continue  # else the ladder's next rung may want to go back there once more
            touched |= run.layers.withdraw(verdict.decision_id)
            if run.feed is not None:
                run.feed.take_again(verdict.decision_id)
        if run.mix is not None and any(name.startswith("weight/") for name in touched):
            run.mix.apply_now(run.clock.tick + 1)
        branch = run.clock.branch
        if order.decision is not None and order.decision.actions[0].name == "trial":
            trial = Trial(
                run,
                order.decision,
                arrive=self._arrive,
                tell=self._tell,
                acting=lambda: self._pilot is not None and self._pilot.acting,
                clock=self._clock,
            )
            self._follow(trial, trial.begin())
        elif order.decision is not None:
            self._carry_out(order.decision)
        if run.clock.branch == branch:
            put_in_force(run, news.moves)
        elif self._pilot is not None and self._trial is None:
            self._regulate_again(self._pilot)

    def _regulate_again(self, pilot: Pilot) -> None:
        """Regulators stand where they once stood: what was ordered there and is not in force is due again."""
        there = in_force(self._run)
        if pilot.acting:
            wanted = pilot.regulators.ordered()
            moves = {name: value for name, value in wanted.items() if there.get(name) != value}
            self._hold(None, News(moves=moves))

    def _keep_target(self, decision: Decision) -> None:
        """Keep what a decision that waits for approval would go back to."""
        onset = decision.onset if decision.onset is not None else decision.tick
        target = self._run.ring.at_or_before(onset - 1)
        if target is not None and any(action.name in GO_BACK for action in decision.actions):
            self._run.ring.hold(target, _question(decision.id))

    def _follow(self, trial: Trial, outcome: Outcome | None) -> None:
        """A trial goes on, or is over with this outcome."""
        self._trial = trial if outcome is None else None
        if outcome is not None:
            self._ask(Pilot.settle, outcome)
            if self._pilot is not None:
                self._regulate_again(self._pilot)

    def _tell(self, kind: str, tick: int, detail: Mapping[str, Any]) -> None:
        self._ask(Pilot.event, kind, tick, detail)

    def _carry_out(self, decision: Decision) -> Outcome:
        self.stirs = True
        outcome = carry_out(self._run, decision)
        self._ask(Pilot.settle, outcome)
        return outcome

    def _show_overrides(self, metrics: Metrics) -> None:
        multiplier = self._run.learning_rate.multiplier
        if multiplier != self._shown_multiplier:
            self._shown_multiplier = multiplier
            metrics.override("lr", multiplier)
        mix = self._run.mix
        if mix is not None and mix.weights is not self._shown_weights:
            self._shown_weights = mix.weights
            for name, weight in mix.applied.items():
                metrics.override(f"weight/{name}", weight)


def _question(decision: str) -> str:
    """The name under which the ring holds a state for a decision that waits for approval."""
    return f"question {decision}"
