"""The tests themselves: none asserts how long something takes, and hardly any touches a private name."""

import ast

import pytest
from conftest import ROOT

FILES = sorted((ROOT / "tests").rglob("*.py"))
CLOCKS = {"time", "monotonic", "perf_counter", "process_time", "thread_time", "getrusage", "times"}


def reads_clock(node):
    """Whether a clock is read in it, of the wall or of the processor."""
    calls = [each.func for each in ast.walk(node) if isinstance(each, ast.Call)]
    return any(getattr(call, "attr", None) in CLOCKS and ast.unparse(call).startswith(MODULES) for call in calls)


MODULES = ("time.", "resource.", "os.times")


def timed_assertions(source):
    """The lines of assertions about a clock, or about a variable that was computed from one."""
    found = []
    for function in [each for each in ast.walk(ast.parse(source)) if isinstance(each, ast.FunctionDef)]:
        measured = set()
        for _ in range(3):  # what was computed from what was computed
            for node in ast.walk(function):
                if isinstance(node, ast.Assign) and (reads_clock(node.value) or measured & names_in(node.value)):
                    measured |= {name for target in node.targets for name in names_in(target)}
        asserts = [each for each in ast.walk(function) if isinstance(each, ast.Assert)]
        found += [each.lineno for each in asserts if reads_clock(each.test) or measured & names_in(each.test)]
    return found


def names_in(node):
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_assertion_is_about_time(path):
    assert timed_assertions(path.read_text()) == []


@pytest.mark.parametrize(
    "body",
    [
        "began = time.monotonic(); work(); assert time.monotonic() - began < 1",
        "began = time.process_time(); work(); took = time.process_time() - began; assert took < 1",
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); own = used.ru_utime; assert own < 3",
    ],
)
def test_an_assertion_about_time_would_be_noticed(body):
    assert timed_assertions(f"def test(): {body}") == [1]
