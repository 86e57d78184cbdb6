"""What the benchmarks share: the machine in a few words, and where results go."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

STDOUT = "-"


def machine() -> dict[str, Any]:
    """The class of machine that a figure comes from: enough to compare, nothing that names one."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "accelerate", "numpy")},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """``--json`` writes to standard output in place of the table, ``--json OUT`` to a file beside it."""
    parser.add_argument("--json", nargs="?", const=STDOUT, metavar="OUT", help="write JSON, to OUT if given")


def give(result: Mapping[str, Any], table: str, json_to: str | None) -> None:
    """Hand a result over: a table for people, JSON for programs."""
    if json_to != STDOUT:
        print(table)
    if json_to is None:
        return
    text = json.dumps(result, indent=2, allow_nan=False)
    if json_to == STDOUT:
        print(text)
    else:
        Path(json_to).write_text(text + "\n", encoding="utf-8")
        print(f"written: {json_to}", file=sys.stderr)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows under one another, the first column to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join((row[0].ljust(len(first)), *others)))
    return "\n".join(lines)
