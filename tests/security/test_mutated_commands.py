"""Commands that were made wrong are answered in a line, with exit code 2, before TensorFlow; right ones are accepted.

`pytest -m slow -n 0 tests/security/test_mutated_commands.py` asks 1,200 wrong and 250 right ones; the default run
asks a sample.
"""

import ast
import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.shipped_options import VALUES, Base, fits

from rlresearch.config.compose import CONFIG_FOLDER
from rlresearch.config.dotted import flattened
from rlresearch.noise import Gaussian
from rlresearch.training.settings import Settings

ROOT = Path(__file__).parents[2]
# What a person who typed the command need not know: libraries, classes, addresses, how Hydra looks for files.
INTERNAL = re.compile(
    r"pydantic|omegaconf|OmegaConf|antlr|ConfigKeyError|ListConfig|DictConfig|AnyNode|ConfigAttribute|HydraConfig|full_key|"
    r"object_type|reference_type|Traceback|Exception|<class|0x[0-9a-f]{6}|provider=|structured://|own://|_MISSING_|"
    r"blocklist|Error merging|primary config|Could not |append to your|site-packages|line \d+, in "
)
# The way out: what is allowed, or what to do.
WAY_OUT = re.compile(
    r"must |llowed: |did you mean |needs |choose|try |there is no|has no |cannot |leave |leaves |lacks |without|take"
    r"|at most|not found|nowhere|refers to|goes with|describes|KEY|go together|expected|leads back|name an|several"
    r"|stands for nothing|no such|lists what there is|is nothing|not built|does not|is not there|changes it|to change"
    r"|more than|one of"
)


def asked(which: str, count: int, seed: int = 0) -> list[dict]:
    """The answers to so many commands, of a process of their own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, str(ROOT / "tests" / "support" / "answer_commands.py"), which, str(count), str(seed)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def faults(answer: dict) -> list[str]:
    """What is wrong with the answer to a wrong command."""
    line, found = answer["err"], []
    if answer["code"] != 2:
        found.append(f"exit code {answer['code']}")
    if answer["out"] or line.count("\n") != 1 or not line.startswith("rlresearch: ") or len(line) > 400:
        found.append("not one line")
    if (word := INTERNAL.search(line)) is not None:
        found.append(f"says {word[0]!r}")
    if not all(name[:50] in line for name in answer["about"]):
        found.append(f"does not name {answer['about']}")
    if not WAY_OUT.search(line):
        found.append("shows no way out")
    if answer["tf"]:
        found.append("loaded TensorFlow")
    if answer["mb"] > 500:
        found.append(f"took {answer['mb']} MB")
    return found


def check_wrong(answers: list[dict]) -> None:
    bad = [(each["argv"][-2:], each["err"], why) for each in answers if (why := faults(each))]
    assert not bad, "\n".join(map(str, bad[:20]))


def test_a_sample_of_wrong_commands_gets_a_line_each():
    check_wrong(asked("wrong", 24, seed=1))


def test_a_sample_of_right_commands_is_accepted():
    refused = [each for each in asked("right", 8, seed=1) if each["err"] or each["tf"]]
    assert not refused


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_every_wrong_command_gets_a_line(seed):
    answers = asked("wrong", 400, seed)
    assert len({each["kind"] for each in answers}) >= 12
    check_wrong(answers)


@pytest.mark.slow
def test_every_right_command_is_accepted():
    refused = [each for each in asked("right", 250, seed=5) if each["err"] or each["tf"]]
    assert not refused


@pytest.mark.slow
def test_wrong_commands_in_processes_of_their_own_leave_nothing(tmp_path):
    for answer in [each for each in asked("wrong", 24, seed=6) if not each["files"]][:12]:
        command = [sys.executable, "-m", "rlresearch", *(word for word in answer["argv"] if "\0" not in word)]
        done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)
        assert done.returncode == 2 or len(command) < len(answer["argv"]) + 3
        assert b"Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "answer, fault",
    [
        ({"code": 0}, "exit code 0"),
        ({"err": "rlresearch: seed=x\nmust be 1\n"}, "not one line"),
        ({"err": "rlresearch: seed=1: ListConfig must not be\n"}, "ListConfig"),
        ({"about": ["algo.gamma"]}, "does not name"),
        ({"err": "rlresearch: seed=x: oh dear.\n"}, "no way out"),
        ({"tf": True}, "TensorFlow"),
        ({"mb": 5000}, "MB"),
    ],
)
def test_a_bad_answer_would_be_noticed(answer, fault):
    good = {"code": 2, "out": "", "err": "rlresearch: seed=x: must be 1.\n", "about": ["seed"], "tf": False, "mb": 100}
    assert faults(good) == []
    assert len(faults(good | answer)) == 1 and fault in faults(good | answer)[0]


def test_the_oracle_knows_types_and_ranges():
    hints = Base.of("algo/ddpg").types
    for key, good, bad in [
        ("algo.gamma", ["0", "1", "1.0"], ["3.5", "-1", "nan", "true", "'1'", "[1,2]", "null"]),
        ("seed", ["0", "2", "1_0"], ["-1", "3.5", "1.0", "true", str(2**63), "word"]),
        ("checkpoint.every_steps", ["null", "1"], ["0", "-1", "3.5", "word"]),
        ("network.actor.hidden", ["[]", "[1,2]"], ["[-1]", "[x]", "[[1]]", "1", "null"]),
    ]:
        assert all(fits(VALUES[text], hints[key]) for text in good)
        assert not any(fits(VALUES[text], hints[key]) for text in bad)


@functools.cache
def _read_somewhere() -> frozenset[str]:
    """Every attribute that some code of the package reads."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "rlresearch").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return frozenset(node.attr for node in nodes if isinstance(node.ctx, ast.Load))


def dead(keys) -> list[str]:
    """Those whose last part is the name of nothing that any code reads."""
    return [key for key in keys if key.rpartition(".")[2] not in _read_somewhere()]


def test_every_key_of_every_shipped_option_is_read_by_code():
    """Beside `plan`, which refuses a key that is no field: a field that nothing reads would be a dead key too."""
    for path in sorted({*CONFIG_FOLDER.glob("*.yaml"), *CONFIG_FOLDER.glob("*/*.yaml")}):
        settings = yaml.safe_load(path.read_text()) or {}
        own = [key for key in flattened(settings) if not key.startswith(("hydra.", "defaults", "_target_"))]
        assert dead(key for key in own if not key.endswith("_target_")) == [], path


def test_a_field_that_nothing_reads_would_be_noticed():
    @dataclasses.dataclass(frozen=True)
    class Planted(Gaussian):
        momentum_of_nothing: float = 0.0

    keys = [f"noise.{each.name}" for each in dataclasses.fields(Planted)]
    assert dead(keys) == ["noise.momentum_of_nothing"]
    assert dead(each.name for each in dataclasses.fields(Settings)) == []
