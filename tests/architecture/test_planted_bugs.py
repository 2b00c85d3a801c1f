"""scripts/reliability/planted_bugs.py: its list has not aged, and it tells what is caught from what is not."""

import ast
import functools
import os
import subprocess
import sys

import pytest
from conftest import ROOT

SCRIPTS = ROOT / "scripts" / "reliability"


def _bugs():
    """The script's own reading of its list, before which it loads nothing of the package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        import planted_bugs

        return planted_bugs.read()


BUGS = _bugs()


@functools.cache
def tree_of(file):
    return ast.dump(ast.parse((ROOT / file).read_text()))


@functools.cache
def parsed(file):
    return ast.parse((ROOT / "tests" / file).read_text())


@functools.cache
def named_in(file):
    return {node.name for node in parsed(file).body if hasattr(node, "name")}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_every_bug_applies_once_changes_the_program_and_names_tests_that_exist(bug):
    planted = bug.planted((ROOT / bug.file).read_text())  # raises unless the text stands there once
    assert ast.dump(ast.parse(planted)) != tree_of(bug.file)
    assert bug.tests and bug.seen and "\n" not in bug.seen
    for test in bug.tests:
        file, _, name = test.partition("::")
        assert name.partition("[")[0] in named_in(file), f"{file} has no {name}"


def runs_by_default(tree, name):
    """Whether a module has a test of that name, or a case of it, that is not marked slow as a whole."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            if "mark.slow" in ast.unparse(node.value):
                return False
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return not any(ast.unparse(each) == "pytest.mark.slow" for each in node.decorator_list)
    return False


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_every_bug_is_caught_by_the_default_run(bug):
    named = [test.partition("[")[0].partition("::") for test in bug.tests]
    assert any(runs_by_default(parsed(file), name) for file, _, name in named), "it names slow tests alone"


def test_a_slow_test_would_be_noticed():
    tests = "import pytest\n@pytest.mark.slow\ndef test_slow(): pass\ndef test_quick(): pass\n"
    assert not runs_by_default(ast.parse(tests), "test_slow") and runs_by_default(ast.parse(tests), "test_quick")
    assert not runs_by_default(ast.parse("pytestmark = pytest.mark.slow\n" + tests), "test_quick")


def test_bugs_are_planted_wherever_a_training_step_goes():
    flat = {"rng", "distributions", "schedules", "optim", "normalize"}
    runners = {f"runners/{name}" for name in ("step", "loop", "host", "device", "population")}
    files = {f"rlresearch/{name}.py" for name in flat | runners | {"evaluation/evaluator", "training/loop"}}
    for folder in ("algos", "buffers", "envs", "networks", "noise", "ops"):
        files |= {str(path.relative_to(ROOT)) for path in (ROOT / "rlresearch" / folder).glob("[!_]*.py")}
    aside = {f"rlresearch/envs/{name}.py" for name in ("task", "episode_log", "worker")}  # setting up, and coming back
    aside |= {"rlresearch/noise/protocols.py"}  # signatures alone
    assert files - {bug.file for bug in BUGS} <= aside
    assert len(BUGS) >= 200


# The script on a small checkout.

LIB = "def add(a, b):\n    return a + b\n\n\ndef double(a):\n    return 2 * a\n"
TESTS = """
import lib


def test_add():
    assert lib.add(2, 3) == 5


def test_nothing():
    assert lib.double(0) == 0
"""
TABLE = """
[{name}]
seen = "{name} shows"
file = "lib.py"
before = "{before}"
after = "{after}"
tests = ["test_lib.py::{test}"]
"""
PLANTED = {
    "minus": ("a + b", "a - b", "test_add"),
    "tripled": ("2 * a", "3 * a", "test_nothing"),
    "gone": ("a * b", "a / b", "test_add"),
    "twice": ("return", "yield", "test_add"),
    "broken": ("def double(a):", "double = missing\\ndef other(a):", "test_nothing"),
    "hangs": ("return a + b", "import time; time.sleep(999)", "test_add"),
}


@pytest.fixture
def checkout(tmp_path):
    files = {"lib.py": LIB, "tests/test_lib.py": TESTS, "scripts/reliability/bugs/all.toml": ""}
    for name, (before, after, test) in PLANTED.items():
        files["scripts/reliability/bugs/all.toml"] += TABLE.format(name=name, before=before, after=after, test=test)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "-C", str(tmp_path), "init", "-q"], check=True)
    subprocess.run(["git", "-C", str(tmp_path), "add", "-A"], check=True)
    (tmp_path / "untracked.py").write_text("not copied")
    return tmp_path


def ran(checkout, *arguments):
    """The script, without what it loads for this project's tests."""
    code = f"import planted_bugs as p, pathlib, sys; p.PRELOAD = ['pytest']; sys.exit(p.main({list(arguments)}, "
    code += f"pathlib.Path({str(checkout)!r})))"
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_what_is_caught_missed_stale_or_broken_is_told_apart(checkout):
    done = ran(checkout, "minus", "tripled", "gone", "twice", "broken", "--jobs", "2")
    said = dict(line.split(maxsplit=2)[1:] for line in done.stderr.splitlines())
    assert done.returncode == 1, done.stderr
    assert said["minus"] == "test_lib.py::test_add"
    assert said["tripled"] == "MISSED"
    assert said["gone"] == "does not apply: its text stands 0 times in lib.py"
    assert said["twice"] == "does not apply: its text stands 2 times in lib.py"
    assert said["broken"].startswith("no test ran") and "missing" in said["broken"]
    assert "1 of 5 planted bugs were caught" in done.stdout and "tripled shows" in done.stdout
    assert (checkout / "lib.py").read_text() == LIB


def test_all_caught_is_success_also_beside_all_tests(checkout):
    done = ran(checkout, "minus", "--all-tests")
    assert done.returncode == 0 and "1 of 1 planted bugs were caught" in done.stdout
    assert "tests/" not in done.stdout and "test_lib.py::test_add" in done.stdout


def test_a_test_that_hangs_catches_nothing(checkout):
    done = ran(checkout, "hangs", "--time-limit", "1")
    assert done.returncode == 1 and "not done after 1 s" in done.stderr


def test_tests_that_fail_anyway_catch_nothing(checkout):
    (checkout / "lib.py").write_text(LIB.replace("2 * a", "2 * a + 1").replace("a + b", "a + b + 0"))
    done = ran(checkout, "tripled")
    assert done.returncode == 1 and "fail without any bug: tests/test_lib.py::test_nothing" in done.stdout
    assert "planted bugs were caught" not in done.stdout


def test_the_list_is_shown_and_a_wrong_word_refused(checkout):
    done = ran(checkout, "--list")
    assert done.returncode == 0 and all(name in done.stdout for name in PLANTED)
    done = ran(checkout, "minos")
    assert done.returncode == 2 and "did you mean 'minus'?" in done.stderr


def test_without_git_nothing_is_copied(checkout):
    (checkout / ".git").rename(checkout / ".gone")
    done = ran(checkout, "minus")
    assert done.returncode == 2 and "must be a git checkout" in done.stderr and "Traceback" not in done.stderr
