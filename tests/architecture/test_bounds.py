"""bounds.toml: what it says of the package holds, and no number has risen since the commit before."""

import ast
import functools
import subprocess
import tomllib

import pytest
from conftest import ROOT
from support.bounds import BOUNDS, FILE

PACKAGE = ROOT / "rlresearch"
DOORS = {"__main__", "evaluate", "export", "rerun", "trainer"}  # for `python -m` and for programs of version 0.1


def room(path):
    """The folder that a module lies in, or its own name where it lies flat; None for a door and for the package."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return None if first in {*DOORS, "__init__"} else first


@functools.cache
def arrows():
    """For each room the rooms that it imports."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        if (source := room(path)) is None:
            continue
        targets = found.setdefault(source, set())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "rlresearch":
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module.startswith("rlresearch."):
                targets.add(node.module.split(".")[1])
    return {source: {name for name in targets if name in found or (PACKAGE / name).is_dir()} - {source}
            for source, targets in found.items()}  # fmt: skip


def floor(name):
    return 1 + max(map(floor, arrows().get(name, ())), default=0)


def annotations():
    """Every annotation of an argument, a result or a variable."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            given = [getattr(node, "annotation", None), getattr(node, "returns", None)]
            yield from (each for each in given if isinstance(each, ast.AST))


MEASURED = {
    "flat_modules": lambda: len(list(PACKAGE.glob("*.py"))),
    "rooms": lambda: len(arrows()),
    "floors": lambda: max(map(floor, arrows())),
    "arrows": lambda: sum(map(len, arrows().values())),
    "lines_of_a_file": lambda: max(len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")),
    "lines_of_an_algorithm": lambda: max(len(p.read_text().splitlines()) for p in (PACKAGE / "algos").glob("*.py")),
    "type_ignores": lambda: sum(path.read_text().count("type: ignore") for path in PACKAGE.rglob("*.py")),
    "any_annotations": lambda: sum(
        any(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(each)) for each in annotations()
    ),
}
ELSEWHERE = {"files_to_read", "lines_to_read", "functions_before_tensorflow"}  # test_reading_path.py, test_entry.py


@pytest.mark.parametrize("name", MEASURED)
def test_a_bound_holds(name):
    assert MEASURED[name]() <= BOUNDS[name]


def test_every_bound_is_measured():
    assert set(BOUNDS) == {*MEASURED, *ELSEWHERE}


def risen(before, now):
    """The bounds that are higher than they were, or gone."""
    return [name for name, bound in before.items() if now.get(name, float("inf")) > bound]


def test_no_bound_has_risen():
    command = ["git", "show", f"HEAD~1:{FILE.relative_to(ROOT).as_posix()}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("there is no commit before this one that has bounds")
    assert risen(tomllib.loads(done.stdout), BOUNDS) == []


def test_a_bound_that_rose_or_went_would_be_noticed():
    assert risen({"rooms": 3, "floors": 2, "arrows": 1}, {"rooms": 4, "floors": 1}) == ["rooms", "arrows"]
