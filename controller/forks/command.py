"""How a training process was started, and how the same is started again."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .order import ForkError

NAMED = (
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_VISIBLE_DEVICES",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "PYTHONHASHSEED",
    "PYTHONPATH",
)
PREFIXES = ("ACCELERATE_", "FSDP_")
"""Environment variables that are kept: what Accelerate's launcher sets, and what the last bits depend on.

No other is written down: the environment holds secrets."""

_INTERACTIVE = "it was started from an interactive session, which cannot be started again"


@dataclass(frozen=True, slots=True)
class Command:
    """A command as the journal keeps it.

    ``argv`` begins with the interpreter, with its own options: ``-m module`` and ``-c code`` too.
    ``processes`` is how many ran it under torchrun or ``accelerate launch``, on one machine; 1: no launcher.
    ``why_not`` says why it cannot be started again, empty where it can.
    """

    argv: tuple[str, ...]
    folder: str
    environment: Mapping[str, str] = field(default_factory=dict)
    processes: int = 1
    why_not: str = ""

    @classmethod
    def of_this_process(cls, processes: int, environment: Mapping[str, str] = os.environ) -> Command:
        """That of the present process, one of so many."""
        kept = {name: value for name, value in environment.items() if _is_kept(name)}
        argv = (sys.executable, *sys.orig_argv[1:])
        why_not = _why_not(sys.orig_argv[1:], processes, environment)
        return cls(argv, os.getcwd(), dict(sorted(kept.items())), processes, why_not)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Command:
        """From the facts of an attempt.

        Raises:
            ForkError: it is not known, or cannot be started again; the message says what helps.
        """
        told = facts.get("command")
        if told is None:
            raise ForkError(f"the journal does not say how the run was started: {_REMEDY}")
        command = cls(**{**told, "argv": tuple(told["argv"])})
        if command.why_not:
            raise ForkError(f"the run's command cannot be started again: {command.why_not}; {_REMEDY}")
        if not Path(command.folder).is_dir():
            raise ForkError(f"the run's working directory {command.folder} is gone: {_REMEDY}")
        if not Path(command.argv[0]).exists():
            raise ForkError(f"the run's interpreter {command.argv[0]} is gone: {_REMEDY}")
        return command

    def to_json(self) -> dict[str, Any]:
        """All of it, for the facts of an attempt."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {**plain, "argv": list(self.argv), "environment": dict(self.environment)}

    def environment_in(self, present: Mapping[str, str]) -> dict[str, str]:
        """The environment for it: the present one, with all that is kept as it was then."""
        return {**{name: value for name, value in present.items() if not _is_kept(name)}, **self.environment}

    def line(self) -> list[str]:
        """What is executed."""
        if self.processes == 1:
            return list(self.argv)
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.processes}"]
        return [self.argv[0], *launcher, "--no-python", *self.argv]


_REMEDY = "give the command, midcourse fork RUN ... -- python train.py"


def _is_kept(name: str) -> bool:
    return name in NAMED or name.startswith(PREFIXES)


def _why_not(arguments: Sequence[str], processes: int, environment: Mapping[str, str]) -> str:
    """Why a process with these arguments of the interpreter cannot be started again."""
    if any("ipykernel" in each for each in arguments) or not _names_a_program(arguments):
        return _INTERACTIVE
    if "--multiprocessing-fork" in arguments:
        return "it was started by another Python process"
    if processes == 1:
        return ""
    if "TORCHELASTIC_RUN_ID" not in environment:
        return f"its {processes} processes were started neither by torchrun nor by accelerate launch"
    if environment.get("LOCAL_WORLD_SIZE") != str(processes):
        return f"its {processes} processes ran on several machines"
    return ""


def _names_a_program(arguments: Sequence[str]) -> bool:
    """Whether there is a script, ``-m module`` or ``-c code`` among them; ``-`` is standard input."""
    rest = iter(arguments)
    for each in rest:
        if each in ("-X", "-W"):
            next(rest, None)
        elif each != "-" and (not each.startswith("-") or each[:2] in ("-c", "-m")):
            return True
    return False
