"""The documentation is true: examples in docstrings run, the README's commands and files exist."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest

import midcourse
from midcourse.controller import cli
from midcourse.policies.policy import parse_policy
from midcourse.policies.smells import smells_of

ROOT = Path(__file__).parents[1]
ROOMS = ("monitors", "policies", "controller", "configs")
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text("utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}


def module_files() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def module_name(path: Path) -> str:
    dotted = ".".join(("midcourse", *path.relative_to(ROOT).with_suffix("").parts))
    return dotted.removesuffix(".__init__")


def blocks(language: str, page: str = "README.md") -> list[str]:
    """Return a page's fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", [module_name(path) for path in module_files()])
def test_the_examples_in_docstrings_run(name: str) -> None:
    failures, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert failures == 0


@pytest.mark.parametrize("path", module_files(), ids=module_name)
def test_every_module_and_all_that_it_offers_is_documented(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    offered = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    silent = [node.name for node in offered if not ast.get_docstring(node)]
    assert ast.get_docstring(tree)
    assert silent == []


@pytest.mark.parametrize("name", [name for name in midcourse.__all__ if name != "__version__"])
def test_the_public_face_is_documented_to_its_methods(name: str) -> None:
    thing = getattr(midcourse, name)
    assert inspect.getdoc(thing)
    methods = inspect.getmembers(thing, inspect.isfunction) if inspect.isclass(thing) else []
    silent = [method for method, value in methods if method[0] != "_" and not inspect.getdoc(value)]
    assert silent == []


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_only_commands_that_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = "\n".join([*blocks("sh", page), *re.findall(r"`[^`\n]+`", PAGES[page])])
    assert set(re.findall(r"\bmake ([a-z-]+)", commands)) <= targets
    assert set(re.findall(r"(?<![./])\bmidcourse ([a-z]+)(?= |`|$)", commands)) <= set(
        cli.main.list_commands(None)
    )  # type: ignore[arg-type]
    assert [
        name for name in re.findall(r"python (benchmarks/\w+\.py)", commands) if not (ROOT / name).exists()
    ] == []


def test_the_page_of_benchmarks_shows_every_command() -> None:
    files = (ROOT / "benchmarks").glob("*.py")
    commands = {f"benchmarks/{file.name}" for file in files if "__main__" in file.read_text("utf-8")}
    shown = "\n".join(blocks("sh", "benchmarks.md"))
    assert set(re.findall(r"python (benchmarks/\w+\.py)", shown)) == commands
    makes = set(re.findall(r"^(bench[a-z-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"`make (bench[a-z-]*)`", PAGES["benchmarks.md"])) == makes


def test_the_readme_tree_names_only_files_that_exist() -> None:
    tree = next(block for block in blocks("text") if "├──" in block)
    named = re.findall(r"[├└]── (\S+)", tree)
    assert set(ROOMS) <= {name.rstrip("/") for name in named}
    missing = [name for name in named if not (ROOT / name).exists() and not list(ROOT.glob(f"*/{name}"))]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_a_page_links_only_to_files_that_exist(page: str) -> None:
    folder = ROOT if page == "README.md" else ROOT / "docs"
    links = re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", PAGES[page])
    assert [link for link in links if not (folder / link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_the_policies_of_a_page_load_and_its_python_parses(page: str) -> None:
    for text in blocks("yaml", page):
        assert parse_policy(text, page).rules
    for code in blocks("python", page):
        ast.parse(code)


def test_the_readme_shows_a_policy_that_has_no_smells() -> None:
    [text] = blocks("yaml")
    assert [str(smell) for smell in smells_of(parse_policy(text))] == []
