"""The tests themselves: none asserts how long something takes, and hardly any touches a private name."""

import ast

import pytest
from conftest import ROOT

MOST_PRIVATE = 5  # may fall, not rise
OF_NAMED_TUPLES = ("_", "_replace", "_asdict", "_fields", "_make")  # public, and no name at all
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


def private_names():
    """The names with one underscore that the package gives to anything."""
    found = set()
    for path in (ROOT / "rlresearch").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.id if isinstance(node, ast.Name) else node.attr)
    return {
        name for name in found if name.startswith("_") and not name.startswith("__") and name not in OF_NAMED_TUPLES
    }


def private_accesses(source, private):
    """Attributes of others, imports and patched names that the package keeps to itself."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in private and ast.unparse(node.value) not in ("self", "cls"):
            found.append(ast.unparse(node))
        elif isinstance(node, ast.ImportFrom):
            found += [each.name for each in node.names if each.name in private]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr"):
            names = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
            found += [name for name in names[:1] if name.rpartition(".")[2] in private]
    return found


def test_hardly_any_test_touches_a_private_name():
    private = private_names()
    found = {path.name: private_accesses(path.read_text(), private) for path in FILES}
    assert sum(map(len, found.values())) <= MOST_PRIVATE, {name: each for name, each in found.items() if each}


@pytest.mark.parametrize(
    "line",
    ["loop._chunks", "from a import _chunks", "patch.setattr(loop, '_chunks', 1)", "patch.setattr('a._chunks', 1)"],
)
def test_a_private_name_would_be_noticed(line):
    assert len(private_accesses(line, {"_chunks"})) == 1 and private_accesses("self._chunks", {"_chunks"}) == []
