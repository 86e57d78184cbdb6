"""The house stays a house: who may import what, read from the source, wherever the import stands."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("monitors", "policies", "controller", "configs")
GUESTS = ("examples", "benchmarks", "tests")
"""Folders that use the package as a user would, and that the package knows nothing of."""


@dataclass(frozen=True)
class Rights:
    """What the modules under a prefix may import besides the standard library and one another."""

    libraries: frozenset[str] = frozenset()
    rooms: tuple[str, ...] = ()


def rights(libraries: str = "", rooms: str = "") -> Rights:
    return Rights(frozenset(libraries.split()), tuple(f"midcourse.{room}" for room in rooms.split()))


TABLE = {
    "midcourse": Rights(rooms=("midcourse",)),
    "midcourse.monitors": rights("numpy river"),
    "midcourse.monitors.probes": rights("numpy river torch", "monitors"),
    "midcourse.policies": rights(
        "yaml", "monitors.types monitors.changes monitors.plan monitors.registry monitors.bank"
    ),
    "midcourse.controller": rights(
        "numpy torch accelerate safetensors prometheus_client psutil click rich wrapt",
        "monitors policies __version__",
    ),
    "midcourse.configs": rights(),
}
"""The longest prefix of a module's name that is listed here is its home."""

IMPORTED_AS = {"pyyaml": "yaml"}


def home_of(module: str) -> str:
    return max((prefix for prefix in TABLE if within(module, prefix)), key=len)


def within(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def imports(source: str, package: str) -> Iterator[tuple[int, str, bool]]:
    """Yield line, full name and whether it is relative, of every import in a module of a package."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name, False) for alias in names)
            case ast.ImportFrom(module=module, level=0):
                yield node.lineno, str(module), False
            case ast.ImportFrom(module=module, names=names, level=level):
                base = ".".join([*package.split(".")[: len(package.split(".")) - level + 1]])
                targets = [module] if module else [alias.name for alias in names]
                yield from ((node.lineno, f"{base}.{target}", True) for target in targets)
            case ast.Call(func=ast.Name("import_module" | "__import__"), args=[ast.Constant(str(name)), *_]):
                yield node.lineno, name, False


def trespasses(source: str, module: str, package: str) -> list[str]:
    """Say of every import that a module has no right to where it stands and why it is wrong."""
    home = home_of(module)
    allowed = TABLE[home]
    found = []
    for line, name, relative in imports(source, package):
        top = name.split(".")[0]
        if top == "midcourse":
            if not relative:
                found.append(f"{module}:{line}: {name} is imported by its full name; write it relative")
            elif home_of(name) != home and not any(within(name, room) for room in allowed.rooms):
                found.append(f"{module}:{line}: {home} may not import {name}")
        elif top not in sys.stdlib_module_names and top not in allowed.libraries:
            found.append(f"{module}:{line}: {home} may not import {name}")
    return found


def package_files() -> list[Path]:
    return [ROOT / "__init__.py", *(path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))]


def guest_files() -> list[Path]:
    return [path for guest in GUESTS for path in sorted((ROOT / guest).rglob("*.py"))]


def names_of(path: Path) -> tuple[str, str]:
    """Return the name of a module and of the package that its relative imports start from."""
    parts = ("midcourse", *path.relative_to(ROOT).with_suffix("").parts)
    package = ".".join(parts[:-1])
    return (package if parts[-1] == "__init__" else ".".join(parts)), package


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", package_files(), ids=label)
def test_every_import_keeps_to_the_table(path: Path) -> None:
    assert trespasses(path.read_text(encoding="utf-8"), *names_of(path)) == []


@pytest.mark.parametrize("path", guest_files(), ids=label)
def test_guests_come_in_by_the_front_door(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    outside = {name for _, name, relative in imports(source, "guests") if relative}
    assert not outside, "import what is under test by its full name"
    tops = {name.split(".")[0] for _, name, _ in imports(source, "guests")}
    assert not tops & {*ROOMS, "examples", "tests"}, "the rooms are reached as midcourse.ROOM"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("midcourse.monitors.spike", "import torch"),
        ("midcourse.monitors.spike", "def late():\n    from torch import nn"),
        ("midcourse.monitors.spike", "from .probes import norms"),
        ("midcourse.monitors.spike", "from ..policies.types import Phase"),
        ("midcourse.monitors.spike", "from importlib import import_module\nimport_module('torch')"),
        ("midcourse.monitors.probes.rank", "from ...controller import run"),
        ("midcourse.policies.engine", "if TYPE_CHECKING:\n    import torch.nn as nn"),
        ("midcourse.policies.engine", "from ..controller.journal import store"),
        ("midcourse.policies.engine", "from .. import controller"),
        ("midcourse.policies.engine", "from ..monitors.spike import Spike"),
        ("midcourse.policies.engine", "from midcourse.monitors.types import Reading"),
        ("midcourse.controller.run", "import pandas"),
        ("midcourse.controller.run", "from tests import conftest"),
        ("midcourse.controller.run", "import examples.ingredients"),
        ("midcourse.configs.tools", "import yaml"),
    ],
)
def test_a_trespass_is_seen(module: str, source: str) -> None:
    assert len(trespasses(source, module, module.rpartition(".")[0])) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("midcourse.monitors.spike", "import math\nimport numpy as np\nfrom .types import Sample"),
        ("midcourse.monitors.probes.rank", "import torch\nfrom ..types import Monitor"),
        ("midcourse.policies.rules", "import yaml\nfrom ..monitors.types import Health\nfrom . import types"),
        ("midcourse.controller.journal.log", "import torch.nn\nfrom ...policies import engine"),
    ],
)
def test_what_the_table_grants_is_not_a_trespass(module: str, source: str) -> None:
    assert trespasses(source, module, module.rpartition(".")[0]) == []


def test_every_library_that_the_table_grants_is_a_declared_dependency() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[^\w-]", line)[0].lower() for line in declared}
    granted = {library for given in TABLE.values() for library in given.libraries}
    assert granted == {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names}


def test_every_package_on_disk_is_listed_for_installation() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    on_disk = [names_of(path)[0] for path in package_files() if path.name == "__init__.py"]
    assert sorted(settings["packages"]) == sorted(on_disk)
    orphans = [label(path) for path in package_files() if not (path.parent / "__init__.py").exists()]
    assert not orphans, "a folder of modules without __init__.py is not installed"


@pytest.mark.parametrize(
    "path",
    [*package_files(), *guest_files(), ROOT / "Makefile", ROOT / "README.md", ROOT / "pyproject.toml"],
    ids=label,
)
def test_no_file_names_a_path_of_one_machine(path: Path) -> None:
    elsewhere = r"(?<![\w.])/(?:home|root|Users|work)/\w+"
    assert re.findall(elsewhere, path.read_text(encoding="utf-8")) == []


def loaded_by(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has loaded after running some code."""
    script = f"import sys\nbefore = set(sys.modules)\n{code}\nprint('LOADED', *(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in done.stdout.rpartition("LOADED")[2].split()}


def test_importing_the_package_loads_nothing_but_the_standard_library() -> None:
    assert loaded_by("import midcourse") <= sys.stdlib_module_names | {"midcourse"}


@pytest.mark.parametrize(
    "code",
    [
        "import midcourse; midcourse.load_policy('baseline')",
        "from midcourse.controller.cli import main; main(['check', 'baseline'], standalone_mode=False)",
        "import midcourse.policies.engine, midcourse.monitors.bank",
        "from midcourse import fork; import midcourse.controller.cli_fork",
    ],
    ids=["load_policy", "check", "engine", "fork"],
)
def test_judging_a_policy_never_loads_torch(code: str) -> None:
    assert not loaded_by(code) & {"torch", "accelerate", "prometheus_client"}
