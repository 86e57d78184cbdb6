"""What is wired behind a Controller: what the wrapping tells goes to the cycle of the run that is steered."""

from __future__ import annotations

import atexit
import logging
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from accelerate.optimizer import AcceleratedOptimizer

from ..policies.policy import Mode
from .assembly import assemble_cycle, assemble_run
from .clock import Clock
from .cycle import TWO_LOADERS, Cycle
from .feed import Feed
from .foresight import Foresight, steps_a_pass
from .loader import WatchedLoader
from .loop import Counters, TrainingStopped
from .mix import Mix
from .records import Records
from .resume import NEEDS_COUNTER, NEEDS_PREPARE, go_on, own_state
from .run import Rollback, Run
from .sensing import keep_only
from .settings import Settings
from .signals import Recorder
from .start_report import report, why_not_rewind
from .termination import Termination
from .training_state import Stateful
from .wrapping import Wrapping

log = logging.getLogger("midcourse")

P = ParamSpec("P")
T = TypeVar("T")

TWO_OPTIMIZERS = (
    "two optimizers were prepared, so which one a policy steers is ambiguous: name it, "
    "Controller(..., optimizer=optimizer), or, if one training follows another, call "
    "accelerator.free_memory() between them"
)


def _guarded(part: Callable[Concatenate[Cycle, P], T]) -> Callable[Concatenate[Wiring, P], T | None]:
    """Leads to a part of the cycle, if there is one; a failure of ours does not end the training (law 8)."""

    @wraps(part)
    def guarded(wiring: Wiring, /, *args: P.args, **kwargs: P.kwargs) -> T | None:
        if wiring.cycle is None or wiring.closed:
            return None
        try:
            return part(wiring.cycle, *args, **kwargs)
        except Exception as error:
            if not wiring.survives(error):
                raise
            return None

    return guarded


class Wiring:
    """Finds what is to be steered, and leads what happens in the loop to its cycle.

    Args:
        settings: What the user wants.
        recorder: Gathers the signals.
        records: Journal, metrics and pilot; None on ranks other than 0.
    """

    def __init__(self, settings: Settings, recorder: Recorder, records: Records | None) -> None:
        self.cycle: Cycle | None = None
        self.resumed: int | None = None
        self.closed = False
        self.several = settings.ranks.world > 1
        self.on_rollback: list[Rollback] = []
        self._settings = settings
        self._recorder = recorder
        self.clipped = recorder.grad_norm
        self._records = records
        self._resume = settings.resume
        self._loaders: list[WatchedLoader] = []
        self._schedulers: list[Any] = []
        self._registered: dict[str, Stateful] = {}
        self._notices: list[str] = []
        self._time = Clock()
        self._stopped: str | None = None
        self._reported = False
        self._foresight: Foresight | None = None
        self.counters = Counters(
            self._step,
            self._is_stopped,
            self._at_rest,
            self._go_on,
            self._epoch_begins,
            self._loop_ended,
        )
        self._termination = Termination()
        if settings.resume is not None or settings.policy.checkpoints.every is not None:
            self._termination.install()
        self._wrapping = Wrapping(settings.accelerator, self)
        atexit.register(self.close)

    @property
    def stopped(self) -> str | None:
        """Why a policy stopped the run; None while it may go on."""
        return self._stopped if self.cycle is None else self.cycle.run.stopped

    def register(self, name: str, obj: Stateful) -> None:
        """Make this object part of what goes back."""
        self._registered[name] = obj
        if self.cycle is not None:
            self.cycle.run.state.register(name, obj)

    def announce(self, names: frozenset[str]) -> None:
        """These signals are meant to change from the next batch on."""
        if self.cycle is not None:
            self.cycle.run.expected.announce(names)

    def close(self) -> None:
        """Judge the last sample, close the records, leave the Accelerator as it was; once."""
        if self.closed:
            return
        self.closed = True
        atexit.unregister(self.close)
        self._wrapping.release()
        self._termination.release()
        if self.cycle is not None:
            _finish(self.cycle)
        if self._records is not None:
            self._records.close()

    # -- what the wrapping tells ------------------------------------------------------------------

    def prepared(self, optimizers: list[Any], schedulers: list[Any], loaders: list[WatchedLoader]) -> None:
        """``accelerator.prepare`` returned these: find what is to be steered.

        Raises:
            ValueError: two optimizers, and none was chosen.
        """
        self._loaders += [loader for loader in loaders if not any(loader is known for known in self._loaders)]
        for optimizer in optimizers:
            if not _is_chosen(optimizer, self._settings.optimizer):
                continue
            if self.cycle is None:
                self._steer(optimizer)
            elif _inner(optimizer) is not self.cycle.run.optimizer:
                raise ValueError(TWO_OPTIMIZERS)
        self._schedulers += schedulers
        if self.cycle is not None:
            for scheduler in self._schedulers:
                self.cycle.run.state.add_schedule(scheduler)
            self._schedulers = []

    def backward(self, loss: torch.Tensor) -> None:
        """A micro-batch's loss was given to ``accelerator.backward``."""
        if self._resume is not None and not self.counters.owned:
            raise ValueError(NEEDS_COUNTER)
        if self.cycle is not None:
            self.cycle.backward(loss)

    requested = _guarded(Cycle.requested)
    pulled = _guarded(Cycle.pulled)
    entered = _guarded(Cycle.entered)
    crossed = _guarded(Cycle.crossed)
    _left = _guarded(Cycle.left)
    _loaded = _guarded(Cycle.loaded)
    _ended = _guarded(Cycle.loop_ended)

    def survives(self, error: Exception) -> bool:
        """A part of the cycle has raised this, which is being handled: that ends the watching, if it may."""
        # The other ranks would wait for ever for one that stopped watching.
        if self.several or isinstance(error, TrainingStopped):
            return False
        log.exception("Midcourse failed and leaves the run: training goes on unwatched")
        if self._records is not None:
            self._records.metrics.error("controller")
        self.close()
        return True

    def step_raised(self) -> None:
        """The optimizer's step raised."""
        if self.cycle is not None:
            self.cycle.step_raised()

    def left(self, feed: Feed) -> None:
        """The loop's pass over a loader is over."""
        # A loop that counts steps does not expect a pass without a batch, as the rest of this one would be.
        self._left(feed, saves=self.counters.by_epochs)

    def changed(self, feed: Feed) -> None:
        """The data set gave another batch than before."""
        epoch, batch = feed.last.key
        log.warning(
            "the training data set gave another batch than before at pass %d, batch %d: with random "
            "augmentation inside it, or other data, what is trained on again is not the same",
            epoch,
            batch,
        )
        self._tell("data_changed", {"epoch": epoch, "batch": batch})

    def loaded(self, folder: str | None) -> None:
        """The loop loaded a checkpoint of its own."""
        self._loaded()
        self._tell("load_state", {"folder": folder})

    def freed(self) -> None:
        """The loop frees its model and may prepare another: that is steered anew, only the ticks go on."""
        cycle, self.cycle = self.cycle, None
        self._loaders, self._schedulers = [], []
        self._recorder.clear()
        if cycle is None:
            return
        self._wrapping.let_go()
        _finish(cycle)
        run = cycle.run
        run.detectors.load_state_dict({"monitors": {}})
        self._time = Clock(run.clock.tick, 0, run.clock.branch + 1)
        self._stopped, self._reported = run.stopped, False
        self._tell("free_memory", {})

    # -- wiring -----------------------------------------------------------------------------------

    def _steer(self, optimizer: Any) -> None:
        run = assemble_run(
            self._settings.accelerator,
            _inner(optimizer),
            self._settings.policy,
            self._settings.ranks,
            self._records,
            self._settings.directory,
            self.on_rollback,
            self._settings.clock,
        )
        run.clock, run.stopped, run.own_state = self._time, self._stopped, self._own_state
        run.horizon = lambda: self.counters.horizon(steps_a_pass(run, 0))
        if self._settings.forked is not None and self._settings.forked.until is not None:
            run.until = self._settings.forked.until
        if self._records is not None:
            self._foresight = Foresight(run, self.counters, self._records.pilot)
        for name, obj in self._registered.items():
            run.state.register(name, obj)
        self.cycle, self._notices = assemble_cycle(
            run,
            self._settings.policy,
            self._recorder,
            self._records,
            norms_every=self._settings.norms_every,
            on_feed=self._train_on,
            look_ahead=self._look_ahead if self._foresight is not None and self._foresight.wanted else None,
            report=self._first_step_made,
            termination=self._termination,
            leave=self._leave,
            clock=self._settings.clock,
        )
        self._wrapping.steer(optimizer, self.cycle)

    def _own_state(self) -> dict[str, Any]:
        assert self.cycle is not None
        return own_state(self.cycle, self.counters, self._records, self._loaders)

    def _go_on(self) -> None:
        """Before the loop's first pass or step: put the run where the checkpoint stands, if it is resumed.

        Raises:
            ValueError: it cannot go on from there; the message says why and what helps.
        """
        ask, self._resume = self._resume, None
        if ask is None:
            return
        if self.cycle is None:
            raise ValueError(NEEDS_PREPARE)
        run = self.cycle.run
        name = go_on(ask, self.cycle, self.counters, self._records, self._loaders)
        if name is None:
            self._notices.append("resume: there is no checkpoint yet, so the run begins anew")
            return
        ordered = None if self._records is None else list(self._records.pilot.regulators.ordered())
        keep_only(run, run.ranks.share(ordered))
        self.resumed = run.clock.step
        self._notices.append(f"resumed from checkpoint {name}: the run goes on after step {run.clock.step}")
        self._tell("resumed", {"checkpoint": name, "step": run.clock.step, "branch": run.clock.branch})

    def _epoch_begins(self) -> None:
        for watched in self._loaders:
            watched.feed.epoch_begins()

    def _loop_ended(self, *, broken: bool = False) -> None:
        """The loop has come to its end: nothing is left to be saved, so SIGTERM is not held up any more.

        Where it was ``broken`` off nothing can be raised: its iterator is being given up.
        """
        self._ended()
        self._termination.armed = False
        if self._termination.asked and not broken:
            self._leave()

    def _leave(self) -> None:
        """The process was asked to end, and nothing is left to be saved. Raises SystemExit."""
        self._tell("terminated", {"signal": "SIGTERM"})
        self.close()
        self._termination.leave()

    def _train_on(self, feed: Feed | None) -> None:
        """This loader trains: the one that gave the last batch, or the one that was chosen."""
        assert self.cycle is not None
        run = self.cycle.run
        reading = [w.feed for w in self._loaders if w.feed.serving]
        if self._settings.training_loader is not None:
            own = [w.feed for w in self._loaders if w.dataset is self._settings.training_loader.dataset]
            feed = own[0] if own else feed
        elif len(reading) > 1:
            raise ValueError(TWO_LOADERS)
        elif feed is None and reading:
            feed = reading[0]  # the last batch was an evaluation's, in the middle of this one's pass
        run.feed = feed
        run.rewinds = why_not_rewind(run, self.counters.owned)
        run.mix = None
        if feed is not None and feed.mixture is not None:
            run.mix = Mix(feed.mixture, feed, run.layers)
            self.declare_sources()
        if self._records is not None and self._settings.policy.regulators:
            shares = None if run.mix is None else run.mix.own
            for line in self._records.pilot.start_regulators(shares, run.clock.tick):
                if self._reported:
                    log.warning("%s", line)
                else:
                    self._notices.append(line)

    def declare_sources(self) -> None:
        """Name the sources of the mixtures that are read, once they are known."""
        for watched in self._loaders:
            mixture = watched.feed.mixture
            if mixture is not None and not self._recorder.sources:
                self._recorder.declare_sources(mixture.names)
                if self._records is not None:
                    self._records.metrics.declare_sources(mixture.names)

    def _look_ahead(self) -> None:
        if self._foresight is not None:
            self._notices += self._foresight.look(self._recorder.micro_batches)

    def _first_step_made(self, doubt: str | None) -> None:
        assert self.cycle is not None
        self._reported = True
        self._notices += [doubt] if doubt else []
        self._report(self.cycle.run)

    def _report(self, run: Run) -> None:
        if self._records is None:
            return
        if self._settings.forked is not None:
            self._notices.append(self._settings.forked.notice)
        mode = Mode.ACT if self._records.pilot.acting else Mode.OBSERVE
        told = report(run, self._settings.policy, mode, self._notices)
        for line in told.lines:
            self._settings.say(line)
        self._tell("start", told.facts)

    def _tell(self, kind: str, detail: Mapping[str, Any]) -> None:
        if self._records is not None:
            tick = self._time.tick if self.cycle is None else self.cycle.run.clock.tick
            self._records.pilot.event(kind, tick, detail)

    def _step(self) -> int:
        return 0 if self.cycle is None else self.cycle.run.clock.step

    def _is_stopped(self) -> bool:
        return self.stopped is not None

    def _at_rest(self) -> None:
        if self.cycle is not None:
            self.cycle.run.end_if_asked()
            self.cycle.at_rest()


def _inner(optimizer: Any) -> Any:
    return optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer


def _finish(cycle: Cycle) -> None:
    cycle.step_raised()
    try:
        cycle.drain()
        cycle.run.checkpoints.close()
    except Exception:
        log.exception("the last samples could not be judged")


def _is_chosen(prepared: Any, chosen: Any) -> bool:
    return chosen is None or _inner(chosen) is _inner(prepared)
