"""Run directories made to do harm: none of their code runs, nothing outside is opened, and a line says what is wrong.

`pytest -m slow -n 0 tests/security/test_hostile_files.py` tries each of some 470 with every command that reads it,
some 4,200 pairs in five minutes; the default run tries a sample.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.corrupt_files import make_run
from support.hostile_files import CASES

from rlresearch.config import safe_yaml

ROOT = Path(__file__).parents[2]
BEYOND = "what follows would load TensorFlow"
REFUSED = {case.name: case.refused for case in CASES}


def attacked(*arguments: str) -> list[dict]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, str(ROOT / "tests" / "support" / "run_hostile_commands.py"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def faults(answer: dict, refused=()) -> list[str]:
    """What is wrong with an answer; `refused`: the commands that must not get as far as TensorFlow."""
    line, code, found = answer["err"], answer["code"], list(answer["noted"])
    if code not in (0, 1, 2):
        found.append(f"ended with {code}")
    elif code and answer["command"] not in ("verify", "seal"):  # which list what is wrong, on standard output
        if line.count("\n") != 1 or not line.startswith("rlresearch"):
            found.append("not one line")
    if "Traceback" in line:
        found.append("a traceback")
    if "\x1b" in line + answer["out"]:
        found.append("an escape sequence")
    if answer["command"] in refused and (code == 0 or BEYOND in line):
        found.append("not refused")
    return found


def check(answers: list[dict]) -> None:
    bad = [(each, why) for each in answers if (why := faults(each, REFUSED[each["case"]]))]
    told = [f"{each['case']} | {each['command']}: {why} {each['err'][:200]}" for each, why in bad]
    assert not bad, "\n".join(told[:20])


def test_a_sample_of_hostile_runs_does_no_harm():
    answers = attacked("5", "24", "61")
    assert len(answers) == 24 and len({each["command"] for each in answers}) > 5
    check(answers)


@pytest.mark.slow
def test_no_hostile_run_does_harm():
    answers = attacked("0", "100000")
    assert len({each["case"] for each in answers}) == len(CASES) and len(answers) > 4_000
    check(answers)


def test_there_are_as_many_cases_as_are_claimed():
    assert len({case.name for case in CASES}) == len(CASES) >= 450
    assert sum(case.name.startswith("_target_") for case in CASES) >= 60


@pytest.mark.parametrize(
    "answer, fault",
    [
        ({"code": "RecursionError: ..."}, "ended with"),
        ({"err": ""}, "not one line"),
        ({"err": "rlresearch: a\nTraceback\n"}, "not one line"),
        ({"noted": ["os.system (b'touch ran',)"]}, "os.system"),
        ({"out": "\x1b[2J"}, "escape"),
        ({"err": f"rlresearch: {BEYOND}.\n"}, "not refused"),
        ({"code": 0}, "not refused"),
    ],
)
def test_harm_would_be_noticed(answer, fault):
    good = {"command": "resume", "code": 2, "err": "rlresearch: no.\n", "out": "", "noted": []}
    assert faults(good, ["resume"]) == []
    assert fault in faults(good | answer, ["resume"])[0]


GUARDED = """
import json, os, socket, subprocess, sys, pathlib
from support.run_hostile_commands import Guard
root = pathlib.Path(sys.argv[1])
(root / "evil.py").write_text("x = 1")
(root / "link").symlink_to("/var")
sys.path.insert(0, str(root))
def quietly(does):
    before = len(guard.noted)
    try:
        does()
    except (OSError, ImportError):
        pass
    print(json.dumps(guard.noted[before:]))
guard = Guard(root)
quietly(lambda: (root / "evil.py").read_text())
quietly(lambda: os.listdir(root))
quietly(lambda: open("/var/log/x"))
quietly(lambda: open(root / "link" / "x"))
quietly(lambda: open(sys.prefix + "/nothing", "w"))
quietly(lambda: __import__("evil"))
quietly(lambda: os.system("true"))
quietly(lambda: subprocess.run(["true"]))
quietly(lambda: socket.create_connection(("127.0.0.1", 9)))
quietly(lambda: os.remove("/var/nothing"))
"""


def test_the_guard_notes_what_leaves_a_run(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, "-c", GUARDED, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    noted = [json.loads(line) for line in done.stdout.splitlines()]
    assert noted[:2] == [[], []]
    assert all(noted[2:]) and len(noted) == 10


def test_the_run_that_is_spoilt_is_a_good_one(tmp_path):
    from rlresearch.review.commands import maintain
    from rlresearch.review.runs import reader
    from rlresearch.storage import checkpoint
    from rlresearch.training import resume
    from rlresearch.training.experiment import plan

    make_run(tmp_path / "run")
    stored = resume.open_run(str(tmp_path / "run"), "resume")
    plan(stored.config | {"runs_dir": str(tmp_path)}, ["rlresearch"])
    assert checkpoint.newest(stored.home)[1] == {} and checkpoint.newest(stored.home)[0].about.step == 1000
    assert "problem" not in reader.read(tmp_path / "run")[0] and maintain.damages(tmp_path / "run") == []


DEEP, LONG = "a: " + "[" * 5_000, "a: x" * 400_000


@pytest.mark.parametrize("text", [DEEP, LONG, "- " * 3_000 + "x", "a: &a [*a]", "a: &a 1\nb: *a"])
def test_plain_yaml_is_small_shallow_and_refers_to_nothing(text):
    with pytest.raises(ValueError):
        safe_yaml.load(text.encode())
    assert safe_yaml.load(b"a: [1, {b: x}]\nc: \n") == {"a": [1, {"b": "x"}], "c": None}
    assert safe_yaml.load(b"a: &a [1]\nb: *a\n", references=True) == {"a": [1], "b": [1]}
