"""rlresearch: reinforcement learning research on TensorFlow, composed by Hydra, compiled by XLA."""

import gc
import importlib
import importlib.util
import os
import sys
import types

__version__ = "0.2.0"


class LazyModule(types.ModuleType):
    """Stands for a module until one of its attributes is used, then loads it and steps aside.

    `importlib.util.LazyLoader` does not serve: on Python 3.11 to 3.13 the import statement itself
    looks at an attribute, and with that it loads.
    """

    def __getattr__(self, name: str):
        if name in ("__wrapped__", "_mock_name"):  # what pytest asks of whatever a module holds
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(_loaded(self.__name__), name)


def _loaded(name: str) -> types.ModuleType:
    """The module, without looking for garbage meanwhile and ever again in what it made: a quarter of TensorFlow's
    time went into that, a tenth of every tracing after it, and a forked process copied all that is looked through.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def _defer(name: str) -> None:
    """Makes `import name` cost nothing until the module is used.

    Importing TensorFlow takes 5 to 9 s. Every file of the package says `import tensorflow as tf`
    at its top, yet a typo on the command line is answered, and a run directory read, without it.
    """
    spec = importlib.util.find_spec(name) if name not in sys.modules else None
    if spec is not None:
        sys.modules[name] = LazyModule(name)
        sys.modules[name].__spec__ = spec
        sys.modules[name].__file__ = spec.origin  # `inspect` asks every module where it lies


def forget_deferred(name: str) -> None:
    """Takes a stand-in away that was not used: for programs that never will, whose libraries look who is there.

    matplotlib asks every `tensorflow` among the modules whether what it plots is a tensor, and that would load it.
    """
    if isinstance(sys.modules.get(name), LazyModule):
        del sys.modules[name]


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what matters arrives as an exception
_defer("tensorflow")
