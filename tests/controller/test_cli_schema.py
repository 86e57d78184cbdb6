"""``midcourse schema``: what is printed, what is shipped, and that editors find it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from midcourse.controller.cli import main
from midcourse.policies.json_schema import LANGUAGES

CONFIGS = Path(__file__).parents[2] / "configs"
POLICIES = [path for path in sorted(CONFIGS.glob("*.yaml")) if "\nrules:" in path.read_text("utf-8")]
TESTS = sorted(CONFIGS.rglob("*.test.yaml"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_shipped_schema_is_the_present_one(language: str) -> None:
    printed = CliRunner().invoke(main, ["schema", language])
    assert printed.exit_code == 0
    shipped = CONFIGS / "schema" / f"{language}.json"
    assert shipped.read_text("utf-8") == printed.output, (
        f"the language has changed: midcourse schema {language} > configs/schema/{language}.json"
    )


def test_it_is_of_policies_unless_said_otherwise() -> None:
    schema = json.loads(CliRunner().invoke(main, ["schema"]).output)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"] == "A policy of Midcourse"
    assert CliRunner().invoke(main, ["schema", "other"]).exit_code == 2


@pytest.mark.parametrize("path", [*POLICIES, *TESTS], ids=lambda path: path.name)
def test_every_shipped_file_tells_an_editor_its_schema(path: Path) -> None:
    line = re.match(r"# yaml-language-server: \$schema=(\S+)\n", path.read_text("utf-8"))
    assert line is not None
    language = "test" if path in TESTS else "policy"
    assert (path.parent / line[1]).resolve() == (CONFIGS / "schema" / f"{language}.json").resolve()


def test_describing_loads_neither_torch_nor_anything_else_that_is_slow() -> None:
    code = (
        "import sys; from midcourse.controller.cli import main\n"
        "try: main(['schema'])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'accelerate', 'prometheus_client', 'jsonschema'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
