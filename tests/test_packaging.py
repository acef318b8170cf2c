"""What pyproject.toml promises about versions is what the tests are run with."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = PROJECT["dependencies"] + [requirement for extra in EXTRAS.values() for requirement in extra]


def _pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("requirement", REQUIREMENTS)
def test_lower_bound_is_a_version_that_was_run(requirement):
    name, bound = re.fullmatch(r"([\w-]+)>=([\d.]+)(?:,<\d+)?", requirement).groups()
    newest = _pins("constraints.txt")
    assert bound == _pins("constraints-lowest.txt").get(name, newest[name])


def test_no_constraint_is_left_over():
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in REQUIREMENTS}
    assert set(_pins("constraints.txt")) == names
    assert set(_pins("constraints-lowest.txt")) <= names
