"""The shape of the package: what may import what, and how much there is to hold in mind."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rlresearch"

# From the ground up: a module imports what stands in lower layers, or beside it in its own.
LAYERS = {
    "ground": {"rlresearch", "errors", "pulse"},
    "types": {"types"},
    "maths": {"cores", "rng", "trees", "ops", "optim", "schedules", "fence", "distributions", "sum_tree"},
    "parts": {"layers", "networks", "noise", "buffers", "normalize", "envs"},
    "algos": {"algos"},
    "trainer": {"trainer"},
    "running": {"plan", "footprint", "runners", "abreast", "evaluation", "training", "soundness", "saving", "videos"},
    "launch": {"launch", "session", "ending", "lost", "compose", "answers", "own_yaml", "resume"},
    "sweeps": {"sweeps"},
    "main": {"__main__", "evaluate", "export", "rerun"},
}
# What a person sees, and what is settled before TensorFlow loads: outside the maths, neither side knows the other.
OUTSIDE = {"build", "display", "hardware", "loggers", "review", "rundir", "provenance", "signals"}
OUTSIDE |= {"checkpoint", "tensor_files", "durable", "rewinding", "mirrors", "redaction", "trial"}
OUTSIDE |= {"plain_yaml", "overdue"}
KNOWN_OUTSIDE = {*LAYERS["ground"], *LAYERS["types"], "trees", *OUTSIDE}
MAY_USE_OUTSIDE = {*LAYERS["running"], *LAYERS["launch"], *LAYERS["sweeps"], *LAYERS["main"]}

HYDRA = {"compose", "answers", "own_yaml", "__main__"}
OMEGACONF = {*HYDRA, "launch"}  # launch writes a run's config.yaml with it
WITHOUT_TENSORFLOW = ["rundir", "loggers", "display", "errors", "build", "checkpoint", "trial"]
WITHOUT_TENSORFLOW += ["sweeps.ledger", "sweeps.table"]
VAGUE = {"utils", "util", "common", "base", "helpers", "helper", "manager", "misc", "data", "info", "tmp"}

LINES_OF_A_FILE = 400
LINES_OF_AN_ALGORITHM = 200
LINES_OF_A_STEP = 3_910  # of a population; a run alone needs 400 less


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
ENVIRONMENTS = [name for name in MODULES if name.startswith("envs.") and name.count(".") == 1]
RUNNERS = ["runners.host", "runners.device", "runners.population"]
REVIEW = [name for name in MODULES if name.split(".")[0] == "review"]


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


def _outside(name: str) -> set[str]:
    """The other packages that a module imports."""
    return {full.partition(".")[0] for full in _imports(name)} - {"rlresearch"}


def _reached(*names: str) -> set[str]:
    """The modules, and all that they import in turn."""
    reached, ahead = set(), list(names)
    while ahead:
        name = ahead.pop()
        if name not in reached:
            reached.add(name)
            ahead += _inside(name)
    return reached


def _part(name: str) -> str:
    return name.partition(".")[0]


def _height(name: str) -> int:
    return next(height for height, names in enumerate(LAYERS.values()) if _part(name) in names)


def _lines(name: str) -> int:
    return len(MODULES[name].read_text().splitlines())


def test_every_module_has_its_place_in_the_table():
    placed = set().union(*LAYERS.values(), OUTSIDE)
    assert {_part(name) for name in MODULES} == placed


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_downwards(name):
    for target in _inside(name):
        if _part(name) in OUTSIDE:
            assert _part(target) in KNOWN_OUTSIDE, f"{name} is outside the maths, but imports {target}"
        elif _part(target) in OUTSIDE:
            assert _part(name) in MAY_USE_OUTSIDE, f"{name} imports {target}, which is outside the maths"
        else:
            assert _height(target) <= _height(name), f"{name} imports {target}, which stands above it"


def test_no_imports_in_a_circle():
    circles = [name for name in MODULES if name in _reached(*_inside(name))]
    assert not circles


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_knows_no_other_and_no_environment(name):
    for target in _inside(name):
        assert _part(target) not in {"algos", "envs", *OUTSIDE}, f"{name} imports {target}"
    assert not _outside(name) & {"hydra", "omegaconf", "gymnasium", "keras", "wandb", "logging"}


def test_only_the_entry_knows_hydra():
    assert {name for name in MODULES if "hydra" in _outside(name)} == HYDRA
    assert {name for name in MODULES if "omegaconf" in _outside(name)} <= OMEGACONF


@pytest.mark.parametrize("name", [*WITHOUT_TENSORFLOW, *REVIEW])
def test_what_only_reads_and_writes_files_never_reaches_tensorflow(name):
    for reached in _reached(name):
        assert not _outside(reached) & {"tensorflow", "keras"}, f"{name} reaches TensorFlow through {reached}"


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_short_and_has_a_name_that_says_something(name):
    assert not VAGUE & set(name.split("."))
    limit = LINES_OF_AN_ALGORITHM if name in ALGORITHMS else LINES_OF_A_FILE
    assert _lines(name) <= limit


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_a_training_step_touches_can_be_held_in_mind(algorithm, runner):
    """One algorithm, one runner and the longest environment, with all that these import."""
    buffers = [name for name in MODULES if _part(name) == "buffers"]
    touched = max(sum(map(_lines, _reached(algorithm, runner, env, *buffers))) for env in ENVIRONMENTS)
    assert touched <= LINES_OF_A_STEP
