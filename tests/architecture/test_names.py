"""Public names are words of the field: none is private to this project, and shapes stand where tensors come in."""

import ast
import re

import pytest
from conftest import ROOT

PACKAGE = ROOT / "rlresearch"

# Words that once stood for something usual. A name must not contain them.
BANNED = {
    "abreast": "parallel",
    "anew": "reset",
    "apart": "unpack, decode",
    "asked": "query, request",
    "beside": "extra, worker",
    "drawn": "sampled",
    "elsewhere": "remote",
    "fence": "barrier",
    "findings": "report",
    "going": "active",
    "heard": "received",
    "heart": "heartbeat",
    "held": "locked",
    "hold": "lock",
    "impatient": "timeout",
    "judge": "pruner",
    "keeper": "checkpointer",
    "lately": "recent",
    "lost": "failed",
    "overdue": "late, watchdog",
    "parting": "split",
    "pulse": "heartbeat",
    "rewinding": "rollback",
    "soundness": "finite check",
    "sought": "search",
    "tape": "log",
    "tidy": "clean",
    "told": "message",
    "whole": "atomic, full",
    "wound": "stacked",
}
# The same for names that are fine as a part of a longer one.
BANNED_NAMES = {
    "at": "bind",
    "chosen": "select",
    "each": "item",
    "exclusive": "make_unique_dir",
    "go_on": "resume",
    "go_on_from": "resume_from",
    "goes_on": "should_continue",
    "lay_out": "pack",
    "let_go": "release",
    "made": "created",
    "nearest": "did_you_mean",
    "opened": "open_x",
    "over": "with_state",
    "own": "what it is",
    "own_units": "unscale_action",
    "places": "placement",
    "replay_own": "replay_at_index",
    "shown": "format_value",
    "take_up": "adopt",
    "why": "reason",
}
# Names that a file format or a configuration holds: they stay, see docs/explanation/checkpoints.md.
STORED = {
    ("algos/tabular.py", "drawn"),  # the state in a checkpoint
    ("schedules.py", "over"),  # a key of conf
    ("sweeps/search/space.py", "whole"),  # a study's record of its space
}


def words_in(name):
    """`RunDirectory`, `run_directory` -> run, directory."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def assigned(node):
    """The names that an assignment gives. An alias of something that has a name gives none of its own: `A = B`."""
    aliased = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
    if isinstance(node, ast.Assign) and all(isinstance(each, ast.Name) and each.id[0] != "_" for each in aliased):
        return []
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [each for target in targets for each in (target.elts if isinstance(target, ast.Tuple) else [target])]


def names_in(body, inside_class=False):
    """The names of classes, functions, methods, constants, fields and attributes."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield node.name
            yield from names_in(node.body, inside_class=True)
        elif isinstance(node, ast.FunctionDef):
            yield node.name
            if inside_class:
                for inner in ast.walk(node):
                    for each in assigned(inner) if isinstance(inner, ast.Assign | ast.AnnAssign) else []:
                        if isinstance(each, ast.Attribute) and ast.unparse(each.value) == "self":
                            yield each.attr
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            yield from (each.id for each in assigned(node) if isinstance(each, ast.Name))
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from names_in(node.body, inside_class)


def private_words(module, source):
    """{public name: the usual one} of a module's names that are not the field's."""
    found = {}
    stem = module.removesuffix("/__init__.py").removesuffix(".py").rpartition("/")[2]
    for name in [stem, *names_in(ast.parse(source).body)]:
        if name.startswith("_") or (module, name) in STORED:
            continue
        usual = [BANNED[word] for word in words_in(name) if word in BANNED]
        usual += [BANNED_NAMES[name.lower()]] if name.lower() in BANNED_NAMES else []
        found |= {name: usual[0]} if usual else {}
    return found


MODULES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_the_fields_words(module):
    assert private_words(module, MODULES[module].read_text()) == {}


@pytest.mark.parametrize(
    "source, name",
    [
        ("class Keeper: ...", "Keeper"),
        ("def write_whole(): ...", "write_whole"),
        ("class Run:\n def hold(self): ...", "hold"),
        ("class Run:\n def start(self):\n  self.going, self._x = 1, 2", "going"),
        ("class Run(NamedTuple):\n own: int", "own"),
        ("TAPE = 3", "TAPE"),
        ("drawn = _drawn", "drawn"),
        ("if True:\n def told(): ...", "told"),
    ],
)
def test_a_private_word_would_be_noticed(source, name):
    assert set(private_words("module.py", source)) == {name}


def test_a_former_name_and_a_stored_one_may_stay():
    assert private_words("buffers/__init__.py", "Latest, drawn = OnlineBuffer, gather_batch") == {}
    assert private_words("algos/tabular.py", "class TabularState(NamedTuple):\n drawn: tf.Tensor") == {}


def test_a_module_is_named_by_the_fields_words_too():
    assert set(private_words("runtime/overdue.py", "")) == {"overdue"}


@pytest.mark.parametrize("module, name", sorted(STORED))
def test_what_stays_is_there(module, name):
    assert name in names_in(ast.parse(MODULES[module].read_text()).body)


# Where numbers are computed: modules, and all below a folder.
COMPUTES = ("algos", "buffers", "distributions", "envs", "networks", "noise", "normalize", "ops", "optim", "rng")
COMPUTES += ("runners", "schedules", "tree", "types", "xla")
TENSORS = {"Tensor", "ndarray", "Batch", "TimeStep", "StepResult", "Transition"}
# `[B, A]`, `[..., K]`, `[*shape]` or `float32[3]`; `[0, 1)` and `[-1, 1]` are intervals.
SHAPE = re.compile(
    r"\[[^\[\]()]*(?:[A-Za-z]|\.\.\.)[^\[\]()]*\]|(?:float|int|bool|uint)\d*\[[^\]]+\]|\bscalars?\b|\bshape"
)


def takes_tensor(function):
    """Whether an argument's annotation names a tensor, or a container of some."""
    arguments = function.args
    given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg]
    annotations = [each.annotation for each in given if each is not None and each.annotation is not None]
    return any(
        TENSORS & {node.id if isinstance(node, ast.Name) else getattr(node, "attr", None)}
        for annotation in annotations
        for node in ast.walk(annotation)
    )


def without_shape(source):
    """The public functions and methods that take a tensor and name no shape."""
    found = []
    for top in ast.parse(source).body:
        inside = top.body if isinstance(top, ast.ClassDef) and not top.name.startswith("_") else [top]
        for function in [each for each in inside if isinstance(each, ast.FunctionDef) and each.name[0] != "_"]:
            if takes_tensor(function) and not SHAPE.search(ast.get_docstring(function) or ""):
                found.append(function.name)
    return found


@pytest.mark.parametrize("module", [each for each in MODULES if each.partition("/")[0].removesuffix(".py") in COMPUTES])
def test_what_takes_a_tensor_names_a_shape(module):
    assert without_shape(MODULES[module].read_text()) == []


@pytest.mark.parametrize(
    "source, found",
    [
        ("def act(obs: tf.Tensor): ...", ["act"]),
        ('def act(obs: tf.Tensor):\n """Actions float32[B, A]."""', []),
        ('def act(obs: tf.Tensor):\n """In [-1, 1]."""', ["act"]),
        ("def act(batch: Batch | None): ...", ["act"]),
        ('class A:\n def act(self, *obs: np.ndarray):\n  """An action in [0, 1)."""', ["act"]),
        ("class A:\n def act(self, step: int): ...", []),
        ("class _A:\n def act(self, obs: tf.Tensor): ...", []),
        ('def rate(steps: tf.Tensor):\n """A float32 scalar."""', []),
    ],
)
def test_a_function_without_shapes_would_be_noticed(source, found):
    assert without_shape(source) == found


def test_every_module_that_computes_is_there():
    assert {each.partition("/")[0].removesuffix(".py") for each in MODULES} >= set(COMPUTES)
