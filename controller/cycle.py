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
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from ..monitors.types import Sample
from ..policies.policy import Policy
from .feed import Feed
from .keeping import Keeping
from .loop import TrainingStopped
from .metrics import Metrics
from .norms import Norms, gradient_norm
from .orders import Orders
from .pilot import Pilot
from .reading_ahead import READS_AHEAD, SETTLED, autograd_sequence, made_before
from .repeats import REPEATS, Repeats
from .run import Run
from .signals import CONTROL, Recorder, count_examples, unpack
from .snapshots import PassEnds, Snapshots
from .termination import Termination
from .transport import Transport

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
        look_ahead: Called before every step, while the rates are the schedule's own.
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
        look_ahead: Callable[[], None],
        termination: Termination,
        leave: Callable[[], object],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.run = run
        self.recorder = recorder
        self._norms = norms
        self._metrics = metrics
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
        self._transport = Transport(run.accelerator.device) if delayed else None
        self._repeats = repeats
        self._on_feed = on_feed
        self._look_ahead = look_ahead
        self._clock = clock
        self._pulled: Feed | None = None
        self._fed = False
        self._begun = False
        self._ahead = False
        self._pulled_at = 0
        self._inside = False
        self._skipped = False
        self._stop_told = False
        self._sample = Sample(0, 0, 0)
        self._vector: torch.Tensor | None = None
        self._last_step: float | None = None
        self._step_seconds = 0.0

    # -- the forward half -------------------------------------------------------------------------

    def backward(self, loss: torch.Tensor) -> None:
        """A micro-batch's loss; a tick's first one also tells which loader trains.

        Raises:
            TrainingStopped: the run was stopped, and no loader of ours could end the loop.
        """
        if not self.recorder.micro_batches:
            self._begin_tick()
        elif self._inside:
            return  # a closure's later evaluations are not the loss of this step
        if self.run.clock.tick <= SETTLED and made_before(loss, self._pulled_at):
            self._reads_ahead()
        self.recorder.backward(loss, self.run.accelerator.gradient_accumulation_steps, self.run.ranks.world)

    def _begin_tick(self) -> None:
        """Whose batch is trained on: the feed's that gave the last one and is still in its pass, or nobody's.

        A resumed loop reads the rest of a pass from one loader and the later passes from another.
        """
        if self.run.stopped is not None and not self._stop_told:
            raise TrainingStopped(self.run.stopped)
        self._keeping.begin()
        if self._begun and self._fed:
            return
        pulled = self._pulled if self._pulled is not None and self._pulled.serving else None
        known = self.run.feed
        idle = known is None or not known.serving
        if self._begun and (pulled is known or (pulled is None and not idle)):
            return
        self._on_feed(pulled)
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
        if not self.recorder.micro_batches:  # the loop calls loss.backward() itself
            self._begin_tick()
        self._look_ahead()
        run, tick = self.run, self.run.clock.tick + 1
        run.learning_rate.apply(tick)
        if run.clock.branch != self._sample.branch:
            self._norms.take_shares()  # of an update that was taken back
        self._sample = Sample(run.clock.step + 1, tick, run.clock.branch)
        self._skipped = False
        self._inside = closure
        if not closure:
            self._measure()
        if not closure and self._transport is None:
            self._skipped = self._orders.guard(self._sample)
        if not self._skipped:
            self._norms.before_step(tick, closure=closure)
        run.ring.settle()
        self._account("signals", began)

    def _measure(self) -> None:
        """Pack the tick's signals and reduce them; read them at once where they are not delayed."""
        run = self.run
        if not self.recorder.has_grad_norm:
            self.recorder.grad_norm(gradient_norm(run.optimizer))
        self.recorder.norms(self._norms.take_shares())
        self._vector = None
        if self._sample.tick == 1:
            run.ranks.agree(self.recorder.names)
        if self._transport is None:
            self._exchange_now()
        else:
            vector = self.recorder.device_vector(run.accelerator.device, self._control())
            self._vector = run.ranks.reduce(vector)

    def _exchange_now(self) -> None:
        vector = self.recorder.host_vector(self._control())
        if self.run.ranks.world > 1:
            # NCCL reduces what lies on the device; the round trip is the price of judging before the step.
            packed = torch.tensor(vector, dtype=torch.float64, device=self.run.accelerator.device)
            vector = self.run.ranks.reduce(packed).tolist()
        self._sample.signals.update(unpack(self.recorder.names, vector, self._planned()))
        self._heed(self._sample)

    def _planned(self) -> Mapping[str, float] | None:
        return self.run.mix.planned if self.recorder.tells_supply and self.run.mix is not None else None

    def _control(self) -> float:
        flags = self._orders.flags | self._keeping.flags
        if self.run.ranks.main:
            flags |= self._norms.flags(self._sample.tick)
        return float(flags)

    def _heed(self, sample: Sample) -> None:
        """Read rank 0's flags off a reduced vector (a mean over ranks), and whether any process is to end."""
        if flags := round(sample.signals.pop(CONTROL, 0.0) * self.run.ranks.world):
            self._orders.heed(flags)
            self._keeping.heed(flags)
            self._norms.heed(flags)

    # -- the backward half ------------------------------------------------------------------------

    def after_step(self) -> None:
        """Put the rate back, complete the sample, judge what has arrived, and keep the decision for later."""
        if not self._skipped:
            self._keeping.reserve(told=self._last_step is not None)
        began = self._clock()
        run, sample = self.run, self._sample
        if self._inside:
            self._inside = False
            self._measure()
        rate = run.learning_rate.effective
        run.learning_rate.release()
        run.clock.tick += 1
        run.clock.step += 1
        if run.feed is not None:
            run.trail.append(run.clock.tick, run.feed.place.key)
        sample.signals["lr"] = rate
        run.expected.tell(sample.signals, run.mix)
        self._time(sample, began)
        measured = {} if self._skipped else self._norms.after_step(run.clock.tick, self._step_seconds)
        self._account("signals", began)
        if self._vector is None:
            for name, value in measured.items():
                sample.signals[name] = float(value)
            self._orders.judge(sample)
        elif self._transport is not None:
            self._transport.send(sample, self.recorder.names, self._vector, measured, self._planned())
            self._judge_arrived()
        self.recorder.clear()
        if run.layers:
            run.layers.expire(run.clock.tick + 1)
        run.ring.adapt(self._step_seconds)
        self._pulled, self._fed = None, False
        if run.feed is None or self._ahead:
            self.at_rest()
            self._keeping.if_due(None, begun=self._begun)

    def _judge_arrived(self, *, all_of_them: bool = False) -> None:
        """Judge the samples whose numbers have come from the device; waits for them if it is to be all."""
        if self._transport is not None:
            for sample in self._transport.receive(all_of_them=all_of_them):
                self._heed(sample)
                self._orders.judge(sample)

    def step_raised(self) -> None:
        """The update did not happen: leave the user's learning rate as it was."""
        self._inside = False
        self.run.learning_rate.release()

    def _time(self, sample: Sample, now: float) -> None:
        if self._last_step is not None:
            self._step_seconds = now - self._last_step
            sample.signals["step_time"] = self._step_seconds
            if self._step_seconds > 0.0 and self.recorder.examples:
                examples = self.recorder.examples * self.run.ranks.world
                sample.signals["samples_per_second"] = examples / self._step_seconds
        self._last_step = now

    # -- between two steps ------------------------------------------------------------------------

    def requested(self, feed: Feed) -> bool:
        """Before a batch: apply what is due. False once, when a stop ends the loop.

        Raises:
            TrainingStopped: the run was stopped and the loop asks again.
        """
        if feed is not self.run.feed and (self._begun or self.run.stopped is not None):
            return True
        if self._orders.due and self.recorder.micro_batches:
            self._reads_ahead()
        if self.run.stopped is None and not self._ahead:
            self.at_rest()
        if self.run.stopped is None:
            return True
        if self._stop_told:
            raise TrainingStopped(self.run.stopped)
        self._stop_told = True
        return False

    def at_rest(self) -> None:
        """Between two updates, with no gradients pending: do what was decided, let ramps go on."""
        if not self.recorder.micro_batches:
            self._orders.obey(leaving=self._keeping.leaving)

    def pulled(self, feed: Feed, batch: Any) -> None:
        """A batch is on its way to the loop: count it, and take a snapshot if one is due."""
        if not self._begun and feed is not self._pulled:
            # An evaluation may come first, but it is the training loader's first batch that is returned to.
            self._keeping.start_over()
        self._pulled = feed
        if self._begun and feed is not self.run.feed:
            return
        self._fed = True
        if self.run.clock.tick < SETTLED:
            self._pulled_at = autograd_sequence()
        self.recorder.examples += count_examples(batch)
        if self._repeats is not None:
            if self.run.clock.branch != self._sample.branch:  # what is taken again is no repetition
                self._repeats = Repeats()
            if (repeats := self._repeats.look(batch)) is not None:
                self.recorder.log({REPEATS: repeats})
        if not self.recorder.micro_batches and not self._ahead:
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

    def _account(self, part: str, began: float) -> None:
        if self._metrics is not None:
            self._metrics.overhead(part, self._clock() - began)


def delays(policy: Policy, device: torch.device) -> bool:
    """Whether signals are read a tick late: on a device, unless a rule may skip a step before it is made."""
    return device.type != "cpu" and not any(rule.before_step for rule in policy.rules)
