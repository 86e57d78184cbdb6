"""One tick after another: what happens at each point of the user's loop, in this order.

::

    backward      the loss is noted (every micro-batch)
    clipped       the gradient norm is noted, where the loop clips
    before_step   overrides on the learning rate; signals packed, reduced, read; the guard may skip the step
                  (with a closure all of this comes after the step: the loss is evaluated inside it)
    after_step    the rate is put back; monitors and engine judge the sample; a decision waits
    requested     the loop asks for its next batch: the decision is agreed, applied, read back, journalled
    pulled        the batch is there: a snapshot, a durable checkpoint is taken if one is due
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from ..monitors.types import Sample
from ..policies.policy import Policy
from .exchange import Exchange
from .feed import Feed
from .keeping import Keeping
from .loop import TrainingStopped
from .metrics import Metrics
from .norms import Norms
from .orders import Orders
from .pilot import Pilot
from .reading_ahead import READS_AHEAD, SETTLED, autograd_sequence, made_before
from .repeats import REPEATS, Repeats
from .run import Run
from .signals import Recorder, count_examples
from .snapshots import PassEnds, Snapshots
from .termination import Termination

log = logging.getLogger("midcourse")

TWO_LOADERS = (
    "two loaders are read at once, so which one trains is ambiguous: name it, Controller(..., "
    "training_loader=loader), or put the data together in a midcourse.Mixture"
)
ENDED_FIRST = "the run ended first"


class Cycle:
    """Carries a run through its ticks.

    Args:
        run: What is steered.
        recorder: Gathers the signals.
        norms: Measures parameters and update on its cadence.
        pilot: Decides; None on ranks other than 0.
        metrics: Told of snapshots and overhead; None on ranks other than 0.
        delayed: Read signals a tick late, so that the device is never waited for.
        snapshots: Take one before the first step; later ones follow where decisions change the run.
        notices: What is to be said at start; the snapshots add theirs.
        repeats: Looks whether a batch comes again, where the policy asks for that.
        on_feed: Called when the training loader is known.
        look_ahead: Called before every step, while the rates are the schedule's own; None: nobody asks.
        report: Called once, after the first step, with what cannot be known of its loss, if anything.
        termination: Whether the process is asked to end.
        leave: Ends it, once the state is on disk.
        clock: Seconds.
    """

    def __init__(
        self,
        run: Run,
        recorder: Recorder,
        norms: Norms,
        pilot: Pilot | None,
        metrics: Metrics | None,
        *,
        delayed: bool,
        snapshots: bool,
        notices: list[str],
        repeats: Repeats | None = None,
        on_feed: Callable[[Feed | None], None],
        look_ahead: Callable[[], None] | None,
        report: Callable[[str | None], None],
        termination: Termination,
        leave: Callable[[], object],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.run = run
        self.recorder = recorder
        self._norms = norms
        self._metrics = metrics
        self._spent = defaultdict[str, float](float) if metrics is None else metrics.spent
        arrive = partial(self._judge_arrived, all_of_them=True)
        self._orders = Orders(run, pilot, metrics, arrive, clock)
        self._keeping = Keeping(
            run,
            Snapshots(run, metrics, enabled=snapshots, delayed=delayed, notices=notices),
            self._orders,
            termination,
            leave=leave,
            arrive=arrive,
            metrics=metrics,
            clock=clock,
        )
        self._pass_ends = PassEnds(run)
        self._repeats = repeats
        self._exchange = Exchange(
            run, recorder, norms, self._orders, self._keeping, termination, delayed=delayed
        )
        self._on_feed = on_feed
        self._look_ahead = look_ahead
        self._report: Callable[[str | None], None] | None = report
        self._termination = termination
        self._clock = clock
        self._pulled: Feed | None = None
        self._fed = False
        self._begun = False
        self._ahead = False
        self._pulled_at = 0
        self._inside = False
        self._skipped = False
        self._reserved = False
        self._stop_told = False
        self._sample = Sample(0, 0, 0)
        self._last_step: float | None = None

    # -- the forward half -------------------------------------------------------------------------

    def backward(self, loss: torch.Tensor) -> None:
        """A micro-batch's loss; a tick's first one also tells which loader trains.

        Raises:
            TrainingStopped: the run was stopped, and no loader of ours could end the loop.
        """
        run, recorder = self.run, self.recorder
        if recorder.micro_batches:
            if self._inside:
                return  # a closure's later evaluations are not the loss of this step
        elif self._fed and self._begun and run.stopped is None:
            self._termination.armed = True  # as at the begin of any tick: mostly there is no more to it
        else:
            self._begin_tick()
        if run.clock.tick <= SETTLED and made_before(loss, self._pulled_at):
            self._reads_ahead()
        recorder.backward(loss, run.accelerator.gradient_state.num_steps, run.ranks.world)

    def _begin_tick(self) -> None:
        """Whose batch is trained on: the feed's that gave the last one and is still in its pass, or nobody's.

        A resumed loop reads the rest of a pass from one loader and the later passes from another.
        """
        if self.run.stopped is not None and not self._stop_told:
            raise TrainingStopped(self.run.stopped)
        self._termination.armed = True  # from now on there is something to save
        if self._begun and self._fed:
            return
        pulled = self._pulled if self._pulled is not None and self._pulled.serving else None
        known = self.run.feed
        idle = known is None or not known.serving
        if self._begun and (pulled is known or (pulled is None and not idle)):
            return
        self._on_feed(pulled)
        self._orders.stirs = True
        if self._ahead:
            self.run.rewinds = READS_AHEAD
        self._fed = self.run.feed is not None
        if self._begun:
            log.warning("another loader trains from now on: data is not rewound to a place before this one")
            self.run.trail.clear()
            self.run.ring.forget_places()
        self._begun = True
        if self.run.feed is None:
            self._keeping.if_due(None, begun=self._begun)

    def _reads_ahead(self) -> None:
        """Acts in between would change what a forward pass has used: they follow the update instead."""
        if not self._ahead:
            self._ahead, self.run.rewinds = True, READS_AHEAD
            log.warning("%s: data is not rewound", READS_AHEAD)

    def before_step(self, *, closure: bool = False) -> None:
        """Override the learning rate, measure, and let the guard judge before anything is updated.

        With a ``closure`` the optimizer computes loss and gradients inside its step: both are measured later.
        """
        began = self._clock()
        run, norms = self.run, self._norms
        if not self.recorder.micro_batches:  # the loop calls loss.backward() itself
            self._begin_tick()
        if self._look_ahead is not None:
            self._look_ahead()
        now = run.clock
        tick = now.tick + 1
        run.learning_rate.apply(tick)
        if now.branch != self._sample.branch:
            norms.take_shares()  # of an update that was taken back
        sample = self._sample = Sample(now.step + 1, tick, now.branch, {})
        self._skipped = False
        self._inside = closure
        if not closure:
            self._exchange.measure(sample)
            if not self._exchange.delayed:
                self._skipped = self._orders.guard(sample)
        if not self._skipped and (tick >= norms.due or norms.spread):
            norms.before_step(tick, closure=closure)
        if run.ring.beside:
            run.ring.settle()
        self._spent["signals"] += self._clock() - began

    # -- the backward half ------------------------------------------------------------------------

    def after_step(self) -> None:
        """Put the rate back, complete the sample, judge what has arrived, and keep the decision for later."""
        if not self._skipped and not self._reserved:
            self._reserved = True
            self._keeping.reserve(told=self._last_step is not None)
        began = self._clock()
        run, sample, recorder, feed = self.run, self._sample, self.recorder, self.run.feed
        if self._inside:
            self._inside = False
            self._exchange.measure(sample)
        signals, now, rate = sample.signals, run.clock, run.learning_rate
        signals["lr"] = rate.effective
        if rate.overridden:
            rate.release()
        tick = now.tick = now.tick + 1
        now.step += 1
        if feed is not None:
            run.trail.append(tick, feed.key)
        expected, mix = run.expected, run.mix
        if expected.names or (mix is not None and mix.told_version != mix.mixture.version):
            expected.tell(signals, mix)
        last, self._last_step = self._last_step, began
        if last is not None:
            seconds = run.step_seconds = signals["step_time"] = began - last
            if recorder.examples and seconds > 0.0:
                signals["samples_per_second"] = recorder.examples * run.ranks.world / seconds
        measured: Mapping[str, torch.Tensor] = {}
        if self._norms.measuring and not self._skipped:
            measured = self._norms.after_step(tick, run.step_seconds)
        self._spent["signals"] += self._clock() - began
        if self._exchange.delayed:
            self._exchange.send(sample, measured)
            self._judge_arrived()
        else:
            if measured:
                signals |= {name: float(value) for name, value in measured.items()}
            self._orders.judge(sample)
        doubt = None if self._report is None else recorder.doubt
        recorder.clear()
        if run.layers.live:
            run.layers.expire(tick + 1)
        self._pulled, self._fed = None, False
        if feed is None or self._ahead:
            self.at_rest()
            self._keeping.if_due(None, begun=self._begun)
        if self._report is not None:
            report, self._report = self._report, None
            report(doubt)

    def _judge_arrived(self, *, all_of_them: bool = False) -> None:
        """Judge the samples whose numbers have come from the device; waits for them if it is to be all."""
        for sample in self._exchange.arrived(all_of_them=all_of_them):
            self._orders.judge(sample)

    def step_raised(self) -> None:
        """The update did not happen: leave the user's learning rate as it was."""
        self._inside = False
        self.run.learning_rate.release()

    # -- between two steps ------------------------------------------------------------------------

    def requested(self, feed: Feed) -> bool:
        """Before a batch: apply what is due. False once, when a stop ends the loop.

        Raises:
            TrainingStopped: the run was stopped and the loop asks again.
        """
        run = self.run
        if run.clock.step >= run.until:
            run.end_if_asked()
        if not self._orders.stirs and run.stopped is None:
            return True  # most batches
        if feed is not run.feed and (self._begun or run.stopped is not None):
            return True
        if self._orders.due and self.recorder.micro_batches:
            self._reads_ahead()
        if run.stopped is None and not self._ahead:
            self.at_rest()
        if run.stopped is None:
            return True
        if self._stop_told:
            raise TrainingStopped(run.stopped)
        self._stop_told = True
        return False

    def at_rest(self) -> None:
        """Between two updates, with no gradients pending: do what was decided, let ramps go on."""
        if self._orders.stirs and not self.recorder.micro_batches:
            self._orders.obey(leaving=self._keeping.leaving)

    def pulled(self, feed: Feed, batch: Any) -> None:
        """A batch is on its way to the loop: count it, and take a snapshot if one is due."""
        if not self._begun and feed is not self._pulled:
            # An evaluation may come first, but it is the training loader's first batch that is returned to.
            self._keeping.start_over()
        run, recorder = self.run, self.recorder
        self._pulled = feed
        if self._begun and feed is not run.feed:
            return
        self._fed = True
        if run.clock.tick < SETTLED:
            self._pulled_at = autograd_sequence()
        recorder.examples += count_examples(batch)
        if self._repeats is not None:
            if run.clock.branch != self._sample.branch:  # what is taken again is no repetition
                self._repeats = Repeats()
            if (repeats := self._repeats.look(batch)) is not None:
                recorder.log({REPEATS: repeats})
        if not recorder.micro_batches and not self._ahead:
            self._keeping.if_due(feed, begun=self._begun)

    def entered(self, feed: Feed) -> None:
        """A pass begins."""
        if feed is self.run.feed:
            if not feed.place.batch:  # else one goes on that was begun before, without epoch-end code between
                self._pass_ends.entered(feed.place.epoch)
            if self._metrics is not None:
                self._metrics.epoch(feed.place.epoch)

    def left(self, feed: Feed, *, saves: bool) -> None:
        """A pass is over; what follows is epoch-end code. ``saves``: a checkpoint may be taken before it."""
        if feed is self.run.feed:
            self._pass_ends.left()
            if saves and not self.recorder.micro_batches and not self._ahead:
                self._keeping.save_if_due(feed, feed.place)

    def crossed(self, feed: Feed, epoch: int) -> None:
        """A rewound pass went over into the next without epoch-end code."""
        self._pass_ends.crossed(epoch)

    def loaded(self) -> None:
        """The loop loaded a state of its own: what was learnt and kept of the course before is void."""
        run, why = self.run, "the loop loaded a state of its own"
        self._orders.break_off(why, put_back=False)
        self._orders.drop(why)
        run.clock.branch += 1
        run.detectors.load_state_dict({"monitors": {}})
        run.ring.clear()
        run.trail.clear()
        run.checkpoints.abandon_after(-1, run.clock.tick)
        self._orders.healthy = True
        self._keeping.start_over()

    def drain(self) -> None:
        """At the end: judge what is still on its way, and settle what can no longer be done."""
        try:
            self._judge_arrived(all_of_them=True)
        finally:  # also where the judging is what failed: nothing that was only tried stays in force
            self.loop_ended()
            if not self._keeping.left:
                self._orders.drop(ENDED_FIRST)

    def loop_ended(self) -> None:
        """The loop makes no more steps: what was only tried is taken back."""
        self._orders.break_off(ENDED_FIRST)

    def parts(self) -> dict[str, Any]:
        """What goes on from a durable checkpoint of the cycle and the run besides the training state."""
        run = self.run
        parts = {"recorder": self.recorder, "norms": self._norms, "orders": self._orders}
        parts |= {"keeping": self._keeping, "pass_ends": self._pass_ends}
        return parts | {"trail": run.trail, "layers": run.layers, "expected": run.expected}

    def resume(self, feed: Feed) -> None:
        """A run of an earlier process goes on with this training loader."""
        self._begun = True
        self._on_feed(feed)

    def gone_on(self) -> None:
        """The earlier process' state is in force."""
        self._orders.gone_on()


def delays(policy: Policy, device: torch.device) -> bool:
    """Whether signals are read a tick late: on a device, unless a rule may skip a step before it is made."""
    return device.type != "cpu" and not any(rule.before_step for rule in policy.rules)
