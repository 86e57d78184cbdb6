"""What a user installs: a wheel that is whole, versions that agree, a public face that resolves."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import midcourse

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_version_is_the_same_everywhere() -> None:
    assert midcourse.__version__ == PROJECT["version"] == importlib.metadata.version("midcourse")


def test_every_public_name_resolves_and_is_listed() -> None:
    for name in midcourse.__all__:
        assert getattr(midcourse, name) is not None
    assert dir(midcourse) == sorted(midcourse.__all__)
    with pytest.raises(AttributeError, match="Controler"):
        _ = midcourse.Controler


@pytest.mark.parametrize(
    "requirement", [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]], ids=str
)
def test_the_tested_version_of_every_dependency_is_pinned_and_allowed(requirement: str) -> None:
    wanted = Requirement(requirement)
    pins = {normal(name): version for name, version in PINS.items()}
    assert wanted.specifier.contains(pins[normal(wanted.name)])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, so that no build folder appears in the checkout."""
    copy = tmp_path_factory.mktemp("source") / "any name"
    left_out = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "midcourse-runs")
    shutil.copytree(ROOT, copy, ignore=left_out)
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('.'))"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return next(copy.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_the_rooms_with_their_data_and_nothing_else(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("midcourse/")}
    rooms = ("monitors", "policies", "controller", "configs")
    on_disk = {
        f"midcourse/{path.relative_to(ROOT).as_posix()}"
        for room in rooms
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == on_disk | {"midcourse/__init__.py", "midcourse/py.typed"}


@pytest.mark.slow
def test_the_wheel_alone_checks_the_policy_that_it_ships(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "from midcourse.controller.cli import main; main(['check', 'baseline'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
