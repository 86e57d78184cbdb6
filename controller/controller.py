"""The Controller: what the user calls. What happens in the loop is wired behind it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from prometheus_client import CollectorRegistry

from ..policies.policy import Policy, load_policy
from .expected import announced
from .forks.command import Command
from .forks.order import ForkOrder, free_port
from .ranks import Ranks
from .records import Records
from .repeats import REPEATS
from .run import Rollback
from .settings import Settings
from .signals import Recorder
from .training_state import Stateful
from .wiring import Wiring
from .wrapping import is_instrumented


class Controller:
    """Watches a training run and, by a written policy, corrects it while it goes on.

    Make it right after the Accelerator and before ``accelerator.prepare``; the loop stays as it is. In a
    process that ``midcourse fork`` started, ``run_dir`` and ``resume`` are the fork's, whatever is passed
    here, and a ``metrics_port`` that is taken becomes any free one.

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
        norms_every: Ticks between measurements of ``param_norm`` and ``update_ratio``, and of ``moment_lag``
            where the policy reads it; None: by their cost.
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
        forked = ForkOrder.given(os.environ)
        if forked is not None:
            run_dir, resume, metrics_port = forked.run_dir, forked.resume, free_port(metrics_port)
        if resume is not None and run_dir is None:
            raise ValueError("resume needs the run_dir of the run that is to go on")
        ranks = Ranks(accelerator.num_processes, accelerator.process_index)
        checked = ranks.together(lambda: policy if isinstance(policy, Policy) else load_policy(policy))
        # The default is named after one process.
        directory: Path = ranks.share(Path(run_dir) if run_dir is not None else _default_directory())
        logged = (*checked.signals, *signals, *((REPEATS,) if checked.reads(REPEATS) else ()))
        recorder = Recorder(sources, logged, fixed=ranks.world > 1)

        def open_records() -> Records:
            return Records.open(
                checked,
                directory,
                sources=recorder.sources,
                registry=registry,
                port=metrics_port,
                facts={
                    "processes": ranks.world,
                    "device": str(accelerator.device),
                    "command": Command.of_this_process(ranks.world).to_json(),
                },
                clock=clock,
                forked=forked,
            )

        self._directory = directory
        self._recorder = recorder
        self._records = ranks.together(lambda: open_records() if ranks.main else None)
        settings = Settings(
            accelerator=accelerator,
            policy=checked,
            directory=directory,
            ranks=ranks,
            resume=resume,
            optimizer=optimizer,
            training_loader=training_loader,
            norms_every=norms_every,
            say=say or _to_stderr,
            clock=clock,
            forked=forked,
        )
        self._wiring = Wiring(settings, recorder, self._records)

    def epochs(self, count: int) -> Iterator[int]:
        """Count passes over the data in place of ``range``; owning the counter lets data be rewound."""
        return self._wiring.counters.epochs(count)

    def steps(self, count: int) -> Iterator[int]:
        """Count optimizer steps up to ``count``; those that a rollback took back are made again."""
        return self._wiring.counters.steps(count)

    def log(self, **signals: torch.Tensor | float) -> None:
        """Add scalars to this tick's sample; ``loss`` replaces the one given to ``backward``."""
        self._recorder.log(signals)

    def log_examples(self, losses: torch.Tensor, sources: torch.Tensor | Sequence[str]) -> None:
        """Give per-example losses [B] and their sources [B] (numbers or names): ``loss/source=NAME``.

        Raises:
            ValueError: the two do not match in length, or a source has no name.
        """
        if not self._recorder.by_source.names:
            self._wiring.declare_sources()
        self._recorder.by_source.add(losses, sources)

    def expect_change(self, *signals: str) -> None:
        """What changes from the next batch on is meant to: a new stage, other data, a new augmentation.

        Monitors then drop the evidence that this could explain and find the new level, instead of taking it
        for a fault; what breaks is found all the same. A learning rate needs no word as long as it stays
        below the highest that the run has known, nor do a policy's own acts.

        Args:
            signals: Those that move, ``"loss"`` say; none: all of them.

        Raises:
            ValueError: one is no name of a signal.
        """
        self._wiring.announce(announced(signals))

    def register(self, name: str, obj: Stateful) -> None:
        """Restore this object too on every rollback: an EMA copy, a curriculum, a scheduler of your own.

        Raises:
            TypeError: it has no ``state_dict`` and ``load_state_dict``.
        """
        if not isinstance(obj, Stateful):
            raise TypeError(f"register({name!r}): {type(obj).__name__} has no state_dict and load_state_dict")
        self._wiring.register(name, obj)

    def on_rollback(self, told: Rollback) -> None:
        """Call ``told(from_step, to_step)`` after every rollback, for loggers of your own."""
        self._wiring.on_rollback.append(told)

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
        return self._wiring.resumed

    @property
    def stopped(self) -> str | None:
        """Why a policy stopped the run, and where its good state is; None while it may go on."""
        return self._wiring.stopped

    def close(self) -> None:
        """Judge the last sample, close the journal, and leave the Accelerator as it was.

        Also called by ``accelerator.end_training()`` and at exit; a second call does nothing.
        """
        self._wiring.close()


def _to_stderr(line: str) -> None:
    print(f"midcourse: {line}", file=sys.stderr, flush=True)


def _default_directory() -> Path:
    return Path("midcourse-runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
