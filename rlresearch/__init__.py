"""rlresearch: reinforcement learning research on TensorFlow, composed by Hydra, compiled by XLA."""

import ast
import functools
import gc
import importlib
import importlib.util
import linecache
import os
import sys
import typing
from types import FrameType, ModuleType
from typing import Any

__version__ = "0.2.0"


# Parts of TensorFlow that hold classes which stand in annotations: tf.data.Dataset, tf.random.Generator.
_WITH_TYPES = ("data", "distribute", "dtypes", "keras", "random", "types", "experimental")


class LazyModule(ModuleType):
    """Stands for a module. The first use of an attribute loads the module, which takes its place; a class may be named.

    `importlib.util.LazyLoader` does not serve: on Python 3.11 to 3.13 the import statement itself
    looks at an attribute, and with that it loads.
    """

    def __getattr__(self, name: str):
        if name in ("__wrapped__", "_mock_name"):  # what pytest asks of whatever a module holds
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            if (name[:1].isupper() or name in _WITH_TYPES) and _is_annotation(sys._getframe(1)):
                return LazyType(self.__name__, (name,))
            del sys.modules[self.__name__]
        return getattr(load_module(self.__name__), name)


def _is_annotation(frame: FrameType) -> bool:
    """Whether what a frame is evaluating stands in an annotation, by the source; False where there is none."""
    where = list(frame.f_code.co_positions())[frame.f_lasti // 2]
    begin, end = (where[0], where[2]), (where[1], where[3])
    if None in (*begin, *end):
        return False
    places = _annotations("".join(linecache.getlines(frame.f_code.co_filename, frame.f_globals)))
    return any(first <= begin and end <= last for first, last in places)


@functools.cache
def _annotations(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """(line, column) of the beginning and end of each annotation."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:
        return []
    found = [getattr(node, name, None) for node in nodes for name in ("annotation", "returns")]
    places = [each for each in found if isinstance(each, ast.expr)]
    return [((each.lineno, each.col_offset), (each.end_lineno or 0, each.end_col_offset or 0)) for each in places]


class LazyType:
    """Stands for a class of a module that is not loaded, such as `tf.Tensor` in an annotation.

    Python evaluates annotations where a module does not begin with `from __future__ import annotations`. To be named
    there, alone or as a part of another type, loads nothing. Every other use loads the module, and is one of the class:
    a call, an attribute, `isinstance`, a base class.
    """

    def __init__(self, module: str, path: tuple[str, ...]) -> None:
        self._module, self._path = module, path

    def loaded(self) -> type:
        """The class itself."""
        if isinstance(sys.modules.get(self._module), LazyModule):
            del sys.modules[self._module]
        found: Any = load_module(self._module)
        return functools.reduce(getattr, self._path, found)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # what `typing` asks of whatever stands in an annotation
            raise AttributeError(name)
        inside = self._path[-1] in _WITH_TYPES and name[:1].isupper()
        return LazyType(self._module, (*self._path, name)) if inside else getattr(self.loaded(), name)

    def __call__(self, *arguments: object, **named: object) -> object:
        """Calls the class."""
        return self.loaded()(*arguments, **named)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self.loaded())

    def __subclasscheck__(self, other: type) -> bool:
        return issubclass(other, self.loaded())

    def __mro_entries__(self, bases: tuple) -> tuple[type, ...]:
        return (self.loaded(),)

    def __or__(self, other: object) -> object:
        return typing.Union[self, other]  # noqa: UP007 (`|` is what is defined here)

    def __ror__(self, other: object) -> object:
        return typing.Union[other, self]  # noqa: UP007

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LazyType) and (self._module, self._path) == (other._module, other._path)

    def __hash__(self) -> int:
        return hash((self._module, self._path))

    def __repr__(self) -> str:
        return ".".join([self._module, *self._path])


def load_module(name: str) -> ModuleType:
    """Imports a module without garbage collection; what it makes is never collected.

    Collection took a quarter of TensorFlow's loading time and a tenth of every tracing after it, and made a forked
    process copy all that it looks through.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def _load_lazily(name: str) -> None:
    """Makes `import name` cost nothing until the module is used.

    Importing TensorFlow takes 5 to 9 s. Every file of the package says `import tensorflow as tf`
    at its top, yet a typo on the command line is answered, and a run directory read, without it.
    """
    spec = importlib.util.find_spec(name) if name not in sys.modules else None
    if spec is not None:
        sys.modules[name] = LazyModule(name)
        sys.modules[name].__spec__ = spec
        sys.modules[name].__file__ = spec.origin  # `inspect` asks every module where it lies


def remove_lazy_module(name: str) -> None:
    """Removes the stand-in of a module that this program never uses.

    matplotlib asks any `tensorflow` in `sys.modules` whether a plotted value is a tensor, and that would load it.
    """
    if isinstance(sys.modules.get(name), LazyModule):
        del sys.modules[name]


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what matters arrives as an exception
_load_lazily("tensorflow")
