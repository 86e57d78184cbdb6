"""The Controller: wires monitors, policy, journal and actuators to a user's Accelerate loop."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from accelerate.optimizer import AcceleratedOptimizer
from prometheus_client import CollectorRegistry

from ..policies.policy import Policy, load_policy
from .assembly import assemble_cycle, assemble_run
from .clock import Clock
from .cycle import TWO_LOADERS, Cycle
from .loader import Feed, WatchedLoader
from .loop import Counters, TrainingStopped
from .mix import Mix
from .ranks import Ranks
from .records import Records
from .resume import NEEDS_COUNTER, NEEDS_COUNTER_FIRST, NEEDS_LOADER, NEEDS_PREPARE, choose, put_in_place
from .run import Rollback, Run
from .signals import Recorder
from .start_report import report, why_not_rewind
from .termination import Termination
from .training_state import Stateful
from .wrapping import Wrapping, is_instrumented

log = logging.getLogger("midcourse")

P = ParamSpec("P")
T = TypeVar("T")

TWO_OPTIMIZERS = (
    "two optimizers were prepared, so which one a policy steers is ambiguous: name it, "
    "Controller(..., optimizer=optimizer), or, if one training follows another, call "
    "accelerator.free_memory() between them"
)


class Controller:
    """Watches a training run and, by a written policy, corrects it while it goes on.

    Make it right after the Accelerator and before ``accelerator.prepare``; the loop stays as it is.

    Args:
        accelerator: The loop's ``accelerate.Accelerator``; only this instance is instrumented.
        policy: A YAML file, the name of a shipped policy (``"baseline"``), or a ``Policy``.
        run_dir: Folder of the journal and of checkpoints; default ``midcourse-runs/<date>-<time>-<pid>``.
        metrics_port: Serve Prometheus metrics on 127.0.0.1 at this port (0: any free one); None: do not.
        registry: Prometheus registry; default a private one.
        sources: Names of numbered data sources where the training loader is not a ``Mixture``.
        signals: Names that will be given to ``log``; needed only with several processes.
        resume: ``"auto"``: go on from the newest complete checkpoint of ``run_dir``, or begin anew where
            there is none; or the folder of one checkpoint. The loop must count with ``epochs`` or ``steps``.
        optimizer: Which optimizer to steer, where several are prepared.
        training_loader: Which loader trains, where several are read at once.
        norms_every: Ticks between measurements of ``param_norm`` and ``update_ratio``; None: by their cost.
        say: Takes each line of the start report; default writes them to standard error.
        clock: Seconds; for tests.

    Raises:
        ValueError: another controller holds this accelerator, or ``resume`` has no ``run_dir``. With
            ``resume``, ``epochs`` and ``steps`` raise it where the checkpoint does not fit this run.
        PolicyError: the policy has mistakes; the message names all of them with their places.
        JournalError: the run folder cannot be made, or another process is writing its journal.

    Example:
        >>> from accelerate import Accelerator
        >>> from midcourse import Controller
        >>> accelerator = Accelerator(cpu=True)
        >>> controller = Controller(accelerator, policy="baseline", run_dir=tmp)  # doctest: +SKIP
    """

    def __init__(
        self,
        accelerator: Any,
        policy: str | Path | Policy = "baseline",
        *,
        run_dir: str | Path | None = None,
        metrics_port: int | None = None,
        registry: CollectorRegistry | None = None,
        sources: Sequence[str] = (),
        signals: Sequence[str] = (),
        resume: str | Path | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        training_loader: Any = None,
        norms_every: int | None = None,
        say: Callable[[str], object] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if is_instrumented(accelerator):
            raise ValueError("this accelerator has a controller already: close() that one first")
        if resume is not None and run_dir is None:
            raise ValueError("resume needs the run_dir of the run that is to go on")
        self._accelerator = accelerator
        self._resume = resume
        self._resumed: int | None = None
        self._say = say or _to_stderr
        self._ranks = Ranks(accelerator.num_processes, accelerator.process_index)
        self._policy = self._ranks.together(
            lambda: policy if isinstance(policy, Policy) else load_policy(policy)
        )
        directory = Path(run_dir) if run_dir is not None else _default_directory()
        self._directory: Path = self._ranks.share(directory)  # the default is named after one process
        self._recorder = Recorder(
            sources, (*self._policy.signals, *signals), fixed=self._ranks.world > 1
        )
        self._norms_every = norms_every
        self._clock = clock
        self._chosen_optimizer = optimizer
        self._chosen_loader = training_loader
        self._loaders: list[WatchedLoader] = []
        self._schedulers: list[Any] = []
        self._registered: dict[str, Stateful] = {}
        self._on_rollback: list[Rollback] = []
        self._notices: list[str] = []
        self._cycle: Cycle | None = None
        self._time = Clock()
        self._stopped: str | None = None
        self._reported = False
        self._closed = False

        def open_records() -> Records:
            return Records.open(
                self._policy,
                self._directory,
                sources=self._recorder.sources,
                registry=registry,
                port=metrics_port,
                facts={"processes": self._ranks.world, "device": str(accelerator.device)},
                clock=clock,
            )

        self._records = self._ranks.together(lambda: open_records() if self._ranks.main else None)
        self._termination = Termination()
        self._counters = Counters(
            self._step,
            self._is_stopped,
            self._at_rest,
            self._go_on,
            self._epoch_begins,
            self._loop_ended,
        )
        if resume is not None or self._policy.checkpoints.every is not None:
            self._termination.install()
        self._wrapping = Wrapping(accelerator, self)
        atexit.register(self.close)

    # -- what the user calls ----------------------------------------------------------------------

    def epochs(self, count: int) -> Iterator[int]:
        """Count passes over the data in place of ``range``; owning the counter lets data be rewound."""
        return self._counters.epochs(count)

    def steps(self, count: int) -> Iterator[int]:
        """Count optimizer steps up to ``count``; those that a rollback took back are made again."""
        return self._counters.steps(count)

    def log(self, **signals: torch.Tensor | float) -> None:
        """Add scalars to this tick's sample; ``loss`` replaces the one given to ``backward``."""
        known = len(self._recorder.refused)
        self._recorder.log(signals)
        if len(self._recorder.refused) > known:
            log.error(
                "with several processes signals are named up front: Controller(..., signals=%s)",
                sorted(self._recorder.refused),
            )

    def log_examples(self, losses: torch.Tensor, sources: torch.Tensor | Sequence[str]) -> None:
        """Give per-example losses [B] and their sources [B] (numbers or names): ``loss/source=NAME``.

        Raises:
            ValueError: the two do not match in length, or a source has no name.
        """
        if not self._recorder.sources:
            self._declare_sources()
        self._recorder.log_examples(losses, sources)

    def register(self, name: str, obj: Stateful) -> None:
        """Restore this object too on every rollback: an EMA copy, a curriculum, a scheduler of your own.

        Raises:
            TypeError: it has no ``state_dict`` and ``load_state_dict``.
        """
        if not isinstance(obj, Stateful):
            raise TypeError(f"register({name!r}): {type(obj).__name__} has no state_dict and load_state_dict")
        self._registered[name] = obj
        if self._cycle is not None:
            self._cycle.run.state.register(name, obj)

    def on_rollback(self, told: Rollback) -> None:
        """Call ``told(from_step, to_step)`` after every rollback, for loggers of your own."""
        self._on_rollback.append(told)

    @property
    def run_dir(self) -> Path:
        """Folder of the journal and the checkpoints."""
        return self._directory

    @property
    def metrics_port(self) -> int | None:
        """Port on which metrics are served; None where they are not."""
        return None if self._records is None else self._records.port

    @property
    def resumed(self) -> int | None:
        """The step after which the run goes on, where it was resumed from a checkpoint; else None."""
        return self._resumed

    @property
    def stopped(self) -> str | None:
        """Why a policy stopped the run, and where its good state is; None while it may go on."""
        return self._stopped if self._cycle is None else self._cycle.run.stopped

    def close(self) -> None:
        """Judge the last sample, close the journal, and leave the Accelerator as it was.

        Also called by ``accelerator.end_training()`` and at exit; a second call does nothing.
        """
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        self._wrapping.release()
        self._termination.release()
        if self._cycle is not None:
            _finish(self._cycle)
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
            if not _is_chosen(optimizer, self._chosen_optimizer):
                continue
            if self._cycle is None:
                self._steer(optimizer)
            elif _inner(optimizer) is not self._cycle.run.optimizer:
                raise ValueError(TWO_OPTIMIZERS)
        self._schedulers += schedulers
        if self._cycle is not None:
            for scheduler in self._schedulers:
                self._cycle.run.state.add_schedule(scheduler)
            self._schedulers = []

    def backward(self, loss: torch.Tensor) -> None:
        """A micro-batch's loss was given to ``accelerator.backward``."""
        if self._resume is not None and not self._counters.owned:
            raise ValueError(NEEDS_COUNTER)
        if self._cycle is not None:
            self._cycle.backward(loss)

    def clipped(self, norm: torch.Tensor | float | None) -> None:
        """The loop clipped, and this was the gradients' norm before."""
        if norm is not None:
            self._recorder.grad_norm(norm)

    def before_step(self, *, closure: bool) -> None:
        """The optimizer's step begins."""
        self._guarded(Cycle.before_step, closure=closure)

    def after_step(self) -> None:
        """The optimizer's step is done."""
        self._guarded(self._step_made)

    def step_raised(self) -> None:
        """The optimizer's step raised."""
        if self._cycle is not None:
            self._cycle.step_raised()

    def requested(self, feed: Feed) -> bool:
        """The loop asks a loader for its next batch; False ends its pass."""
        return self._guarded(Cycle.requested, feed) is not False

    def pulled(self, feed: Feed, batch: Any) -> None:
        """The batch is on its way to the loop."""
        self._guarded(Cycle.pulled, feed, batch)

    def entered(self, feed: Feed) -> None:
        """The loop begins a pass over a loader."""
        self._guarded(Cycle.entered, feed)

    def left(self, feed: Feed) -> None:
        """The loop's pass over a loader is over."""
        # A loop that counts steps does not expect a pass without a batch, as the rest of this one would be.
        self._guarded(Cycle.left, feed, saves=self._counters.by_epochs)

    def crossed(self, feed: Feed, epoch: int) -> None:
        """A rewound pass went over into ``epoch``."""
        self._guarded(Cycle.crossed, feed, epoch)

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
        self._guarded(Cycle.loaded)
        self._tell("load_state", {"folder": folder})

    def freed(self) -> None:
        """The loop frees its model and may prepare another: that is steered anew, only the ticks go on."""
        cycle, self._cycle = self._cycle, None
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
            self._accelerator,
            _inner(optimizer),
            self._policy,
            self._ranks,
            self._records,
            self._directory,
            self._on_rollback,
            self._clock,
        )
        run.clock, run.stopped, run.own_state = self._time, self._stopped, self._own_state
        for name, obj in self._registered.items():
            run.state.register(name, obj)
        self._cycle, self._notices = assemble_cycle(
            run,
            self._policy,
            self._recorder,
            self._records,
            norms_every=self._norms_every,
            on_feed=self._train_on,
            termination=self._termination,
            leave=self._leave,
            clock=self._clock,
        )
        self._wrapping.steer(optimizer)

    def _own_state(self) -> dict[str, Any]:
        """What goes on from a durable checkpoint besides the training state."""
        assert self._cycle is not None
        feed = self._cycle.run.feed
        state: dict[str, Any] = {name: part.state_dict() for name, part in self._parts().items()}
        state["optimizer"] = type(self._cycle.run.optimizer).__name__
        if feed is not None:
            state["feed"] = feed.state_dict()
            state["loader"] = next(i for i, watched in enumerate(self._loaders) if watched.feed is feed)
        return state

    def _parts(self) -> dict[str, Any]:
        assert self._cycle is not None
        run = self._cycle.run
        parts = {**self._cycle.parts(), "counters": self._counters, "checkpoints": run.checkpoints}
        if run.mix is not None:
            parts["mix"] = run.mix
        if self._records is not None:
            parts["pilot"] = self._records.pilot
        return parts

    def _go_on(self) -> None:
        """Before the loop's first pass or step: put the run where the checkpoint stands, if it is resumed.

        Raises:
            ValueError: it cannot go on from there; the message says why and what helps.
        """
        ask, self._resume = self._resume, None
        if ask is None:
            return
        if self._cycle is None:
            raise ValueError(NEEDS_PREPARE)
        run = self._cycle.run
        chosen = choose(ask, run.checkpoints, self._ranks)
        if chosen is None:
            self._notices.append("resume: there is no checkpoint yet, so the run begins anew")
            return
        name, parcel = chosen
        if parcel.snapshot.moment.place is None or parcel.own["loader"] >= len(self._loaders):
            raise ValueError(NEEDS_LOADER)
        feed = self._loaders[parcel.own["loader"]].feed
        if feed.serving:
            raise ValueError(NEEDS_COUNTER_FIRST)
        self._cycle.resume(feed)
        put_in_place(run, name, parcel, feed, self._parts())
        self._cycle.gone_on()
        self._resumed = run.clock.step
        self._notices.append(f"resumed from checkpoint {name}: the run goes on after step {run.clock.step}")
        self._tell("resumed", {"checkpoint": name, "step": run.clock.step, "branch": run.clock.branch})

    def _epoch_begins(self) -> None:
        for watched in self._loaders:
            watched.feed.epoch_begins()

    def _loop_ended(self, *, broken: bool = False) -> None:
        """The loop has come to its end: nothing is left to be saved, so SIGTERM is not held up any more.

        Where it was ``broken`` off nothing can be raised: its iterator is being given up.
        """
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
        assert self._cycle is not None
        run = self._cycle.run
        reading = [w.feed for w in self._loaders if w.feed.serving]
        if self._chosen_loader is not None:
            own = [w.feed for w in self._loaders if w.dataset is self._chosen_loader.dataset]
            feed = own[0] if own else feed
        elif len(reading) > 1:
            raise ValueError(TWO_LOADERS)
        elif feed is None and reading:
            feed = reading[0]  # the last batch was an evaluation's, in the middle of this one's pass
        run.feed = feed
        run.rewinds = why_not_rewind(run, self._counters.owned)
        run.mix = None
        if feed is not None and feed.mixture is not None:
            run.mix = Mix(feed.mixture, feed, run.layers)
            self._declare_sources()

    def _declare_sources(self) -> None:
        for watched in self._loaders:
            mixture = watched.feed.mixture
            if mixture is not None and not self._recorder.sources:
                self._recorder.declare_sources(mixture.names)
                if self._records is not None:
                    self._records.metrics.declare_sources(mixture.names)

    def _step_made(self, cycle: Cycle) -> None:
        doubt = None if self._reported else self._recorder.doubt
        cycle.after_step()
        if not self._reported:
            self._reported = True
            self._notices += [doubt] if doubt else []
            self._report(cycle.run)

    def _report(self, run: Run) -> None:
        if self._records is None:
            return
        told = report(run, self._policy, self._records.pilot.engine.mode, self._notices)
        for line in told.lines:
            self._say(line)
        self._tell("start", told.facts)

    def _tell(self, kind: str, detail: Mapping[str, Any]) -> None:
        if self._records is not None:
            tick = self._time.tick if self._cycle is None else self._cycle.run.clock.tick
            self._records.pilot.event(kind, tick, detail)

    def _guarded(
        self, part: Callable[Concatenate[Cycle, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T | None:
        """Run a part of the cycle; a failure of ours ends the watching, not the training (law 8)."""
        if self._cycle is None or self._closed:
            return None
        try:
            return part(self._cycle, *args, **kwargs)
        except TrainingStopped:
            raise
        except Exception:
            if self._ranks.world > 1:
                # The other ranks would wait for ever for one that stopped watching.
                raise
            log.exception("Midcourse failed and leaves the run: training goes on unwatched")
            if self._records is not None:
                self._records.metrics.error("controller")
            self.close()
            return None

    def _step(self) -> int:
        return 0 if self._cycle is None else self._cycle.run.clock.step

    def _is_stopped(self) -> bool:
        return self.stopped is not None

    def _at_rest(self) -> None:
        if self._cycle is not None:
            self._cycle.at_rest()


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


def _to_stderr(line: str) -> None:
    print(f"midcourse: {line}", file=sys.stderr, flush=True)


def _default_directory() -> Path:
    return Path("midcourse-runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
