"""The way from a command to TensorFlow: composed once, planned once, and short."""

import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.trace_entry import COMPOSITION

from rlresearch import LazyModule

ROOT = Path(__file__).parents[2]
BOUNDS = tomllib.loads(Path(__file__).with_name("bounds.toml").read_text())
# An exception that carries another past a handler, a search through a traceback, a changed command line.
DETOURS = re.compile(r"_Ended|walk_tb|sys\.argv(\[.*\])? = |HYDRA_FULL_ERROR")


@pytest.fixture(scope="module")
def entered(tmp_path_factory):
    """How often `algo=ddpg env=pendulum` enters each function before TensorFlow loads."""
    command = [sys.executable, str(ROOT / "tests" / "support" / "trace_entry.py"), "algo=ddpg", "env=pendulum"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    here = tmp_path_factory.mktemp("here")
    done = subprocess.run(
        command, cwd=here, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout[done.stdout.index("{\n") :])


def test_a_run_composes_once_and_plans_once(entered):
    assert entered[COMPOSITION] == 1
    assert entered["rlresearch/config/compose.py:compose"] == 1
    assert entered["rlresearch/training/experiment.py:plan"] == 1


def test_the_way_to_tensorflow_is_followed_to_its_end(entered):
    """What prepares TensorFlow is among the functions, so that the count is of the whole way."""
    assert entered["rlresearch/runtime/devices.py:prepare"] == 1


def test_few_functions_are_entered_before_tensorflow_loads(entered):
    functions = [name for name in entered if name != COMPOSITION]
    assert len(functions) <= BOUNDS["functions_before_tensorflow"]


@pytest.mark.parametrize("folder", ["rlresearch", "hydra_plugins"])
def test_no_command_takes_a_detour(folder):
    found = {path: DETOURS.findall(path.read_text()) for path in (ROOT / folder).rglob("*.py")}
    assert found and not any(found.values())


def test_a_package_that_was_put_off_can_be_imported_from_by_others(monkeypatch):
    """As Keras does with TensorFlow: the import statement asks the stand-in for its `__path__`."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "wsgiref"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "wsgiref", LazyModule("wsgiref"))
    assert importlib.import_module("wsgiref.headers").Headers
    assert not isinstance(sys.modules["wsgiref"], LazyModule)
