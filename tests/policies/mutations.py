"""Spoils policy files by the thousand, and holds what becomes of them against what is promised.

- Reading one ends in a policy or in a PolicyError, in nothing else, within two seconds of CPU time.
- Every mistake has a message on one line, and a place that lies within the file that it names.
- A policy that is accepted drives monitors and engine, and its text reads again to the same policy.

    python tests/policies/mutations.py --count 100000 --seed 0

Each file follows from the seed and its number: ``--only N`` makes and judges that one again. What breaks a
promise is kept under ``build/mutations``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from math import inf, nan
from pathlib import Path
from random import Random
from typing import Any

from mutators import MUTATORS

from midcourse.monitors.types import BUILTIN_SIGNALS, Sample
from midcourse.policies.policy import Policy, PolicyError, Problem, load_policy, packaged_policy, parse_policy
from midcourse.policies.replay import Replay

HERE = Path(__file__).parent
KEPT = Path("build") / "mutations"
SECONDS = 2.0
HANGS_AFTER = 20
MAIN = "policy.yaml"
_BASES = ("a.yaml", "sub/b.yaml", "c.yaml")
_STRANGE = (
    "baselin",
    "[a.yaml]",
    "/dev/null",
    "/dev/zero",
    "sub",
    '"a\\0b"',
    "x" * 300,
    "",
    "~",
    "./baseline",
)
_MEMORY = 4 << 30

_GOOD = (*sorted(HERE.glob("good/*.yaml")), HERE / "design.yaml", *packaged_policy("baseline").files)
CORPUS = tuple(path.read_text("utf-8") for path in _GOOD)
SPOILED = tuple(path.read_text("utf-8", "replace") for path in sorted(HERE.glob("bad/**/*.yaml")))


@dataclass(frozen=True, slots=True)
class Case:
    """Files of a policy, ``policy.yaml`` first, and how they came about."""

    number: int
    kind: str
    files: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a case. ``broken`` is the promise that was broken, and how; empty if none."""

    number: int
    kind: str
    accepted: bool
    seconds: float
    broken: str = ""


def make(seed: int, number: int) -> Case:
    """The case of this number."""
    random = Random(f"{seed}:{number}")
    kind = random.choice([*MUTATORS, "chain"])
    if kind == "chain":
        return Case(number, kind, _chain(random))
    text = random.choice(CORPUS if random.random() < 0.8 else SPOILED)
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        text = MUTATORS[kind](text, random)
    return Case(number, kind, {MAIN: text.encode("utf-8", "surrogateescape")})


def _chain(random: Random) -> dict[str, bytes]:
    """Files that extend one another, and now and then themselves, what is not there or what is no file."""
    files = {}
    names = [MAIN, *random.sample(_BASES, random.randint(1, 3)), "baseline"]
    for name, below in pairwise(names):
        said = below if below == "baseline" else os.path.relpath(below, os.path.dirname(name) or ".")
        if random.random() < 0.2:
            said = random.choice((*_STRANGE, *names))
        text = random.choice((*CORPUS, "mode: observe\n", "monitors: {rise: null, loss: null}\n"))
        text, lost = random.choice(((text, 0), (text, 0.02), (MUTATORS["nodes"](text, random), 0)))
        rows = [row for row in text.split("\n") if not row.startswith("extends:")]
        text = "\n".join((f"extends: {said}", *(row for row in rows if random.random() >= lost)))
        files[name] = text.encode("utf-8", "surrogateescape")
    return files


def judge(case: Case, folder: Path) -> Result:
    """Read the case's policy from files in this folder, and see whether all that is promised holds."""
    _lay_out(case, folder)
    began, accepted, broken = time.process_time(), False, ""
    try:
        with _no_longer_than(HANGS_AFTER):
            accepted = _read_and_tried(folder)
    except BaseException:  # noqa: BLE001 - whatever it is, it is what is looked for
        broken = traceback.format_exc()
    seconds = time.process_time() - began
    if not broken and seconds > SECONDS:
        broken = f"took {seconds:.1f} s"
    return Result(case.number, case.kind, accepted, seconds, broken)


def _read_and_tried(folder: Path) -> bool:
    try:
        policy = load_policy(folder / MAIN)
    except PolicyError as error:
        _hold_problems(error.problems)
        return False
    _drive(policy)
    again = parse_policy(policy.text)
    assert repr(_bare(again)) == repr(_bare(policy)), "its text reads to another policy"
    return True


def _hold_problems(problems: Sequence[Problem]) -> None:
    assert problems, "an error without a problem"
    assert len(set(problems)) == len(problems), "a mistake is told twice"
    for problem in problems:
        _hold_place(problem)


def _hold_place(problem: Problem) -> None:
    said = str(problem)
    said.encode()
    assert problem.message.strip(), "an empty message"
    assert said.isprintable(), f"not on one line: {said!r}"
    line, column, _ = problem.place
    assert line >= 1, said
    assert column >= 1, said
    source = Path(problem.source)
    if source.is_file():
        rows = [*source.read_bytes().decode("utf-8-sig", "replace").splitlines(), ""]
        assert line <= len(rows), f"beyond the file's end: {said}"
        # a line may also end where YAML sees no end, so what is counted is the rest of the text
        assert column <= len("".join(rows[line - 1 :])) + len(rows) + 1, f"beyond the line's end: {said}"


def _bare(policy: Policy) -> Policy:
    return replace(policy, text="", source="", files=(), extends=())


def _drive(policy: Policy) -> None:
    """Five samples, among them what is no number, as a run would give them."""
    replay = Replay(policy)
    watched = {str(name) for spec in policy.monitors for name in _watched(spec.params)}
    names = {*BUILTIN_SIGNALS, *policy.signals, *policy.baselines, *watched}
    for tick, value in enumerate((1.0, 1.1, nan, inf, 1e30)):
        replay.take(Sample(tick, tick, 0, {name.replace("*", "one"): value for name in names}))


def _watched(params: Mapping[str, Any]) -> tuple[Any, ...]:
    several = params.get("signals") or ()
    return (params.get("signal", "loss"), *(several if isinstance(several, tuple) else ()))


def _lay_out(case: Case, folder: Path) -> None:
    for name in (MAIN, *_BASES):
        (folder / name).unlink(missing_ok=True)
    for name, content in case.files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


@contextmanager
def _no_longer_than(seconds: int) -> Iterator[None]:
    def give_up(number: int, frame: object) -> None:
        raise TimeoutError(f"hangs: gave up after {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def judge_many(seed: int, numbers: range) -> list[Result]:
    """Make and judge the cases of these numbers."""
    with tempfile.TemporaryDirectory() as folder:
        return [judge(make(seed, number), Path(folder)) for number in numbers]


def keep(seed: int, result: Result) -> Path:
    """Write the files of a case where they can be looked at, with what went wrong."""
    folder = KEPT / f"{seed}-{result.number}"
    (folder / "sub").mkdir(parents=True, exist_ok=True)
    _lay_out(make(seed, result.number), folder)
    (folder / "broken.txt").write_text(result.broken)
    return folder


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


def main() -> int:
    """Exits with 1 if a promise was broken."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--count", type=int, default=2000)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--only", type=int, metavar="N", help="the case of this number, written and judged")
    asked.add_argument("--workers", type=int, default=os.cpu_count())
    args = asked.parse_args()
    first, last = (0, args.count) if args.only is None else (args.only, args.only + 1)
    chunks = [range(at, min(at + 50, last)) for at in range(first, last, 50)]
    work: Callable[[range], list[Result]] = partial(judge_many, args.seed)
    tally: Counter[tuple[str, bool]] = Counter()
    slowest, broken, began = Result(0, "", False, 0.0), [], time.monotonic()
    with multiprocessing.Pool(args.workers, _limit_memory) as pool:
        for done, results in enumerate(pool.imap_unordered(work, chunks), start=1):
            for result in results:
                tally[result.kind, result.accepted] += 1
                slowest = max(slowest, result, key=lambda each: each.seconds)
                if result.broken:
                    broken.append(result)
                    print(f"\n{keep(args.seed, result)}: {result.broken.splitlines()[-1]}", flush=True)
            if sys.stderr.isatty() or done % 100 == 0:
                print(
                    f"\r{50 * done} of {args.count}, {len(broken)} broken",
                    end="",
                    file=sys.stderr,
                    flush=True,
                )
    print(
        f"\nseed {args.seed}: {last - first} files in {time.monotonic() - began:.0f} s, {len(broken)} broken"
    )
    for kind in sorted({kind for kind, _ in tally}):
        print(f"  {kind:12} {tally[kind, False]:7} refused {tally[kind, True]:7} accepted")
    print(f"  the slowest took {slowest.seconds:.2f} s: number {slowest.number}, {slowest.kind}")
    if args.only is not None:
        print(f"  {keep(args.seed, slowest)}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
