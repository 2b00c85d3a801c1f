"""The shape of the package: what may import what (pyproject.toml has the contracts), and how modules are called."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "rlresearch"

OMEGACONF = {"config", "cli", "training"}  # training writes a run's config.yaml with it
VAGUE = {"utils", "util", "common", "helpers", "helper", "manager", "misc", "data", "info", "tmp"}

LINES_IN_COMMON = 12  # of two algorithms, in a row


def _modules() -> dict[str, Path]:
    """Every module of the package by its name below `rlresearch.`; a package has its folder's name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        found[".".join(parts) or "rlresearch"] = path
    return found


MODULES = _modules()
ALGORITHMS = [name for name in MODULES if name.startswith("algos.")]


@cache
def _imports(name: str) -> frozenset[str]:
    """Everything that a module imports, at its top or inside a function: full dotted names."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{MODULES[name]}:{node.lineno}: write the import in full"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


@cache
def _inside(name: str) -> frozenset[str]:
    """The modules of the package that a module imports."""
    ours = set()
    for full in _imports(name):
        if full.partition(".")[0] == "rlresearch":
            parts = full.split(".")[1:]
            while parts and ".".join(parts) not in MODULES:
                parts = parts[:-1]
            ours.add(".".join(parts) or "rlresearch")
    return frozenset(ours - {name})


def _reached(*names: str) -> set[str]:
    """The modules, and all that they import in turn."""
    reached, ahead = set(), list(names)
    while ahead:
        name = ahead.pop()
        if name not in reached:
            reached.add(name)
            ahead += _inside(name)
    return reached


def test_the_import_contracts_hold():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_imports_in_a_circle():
    circles = [name for name in MODULES if name in _reached(*_inside(name))]
    assert not circles


def test_omegaconf_stays_where_configurations_are_read_and_written():
    users = {name.partition(".")[0] for name in MODULES if any(each.startswith("omegaconf") for each in _imports(name))}
    assert users <= OMEGACONF


@pytest.mark.parametrize("name", MODULES)
def test_a_module_has_a_name_that_says_something(name):
    assert not VAGUE & set(name.split("."))
