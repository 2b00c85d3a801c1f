"""rlresearch: reinforcement learning research on TensorFlow, composed by Hydra, compiled by XLA."""

import gc
import importlib
import importlib.util
import os
import sys
from types import ModuleType

__version__ = "0.2.0"


class LazyModule(ModuleType):
    """Stands for a module. The first use of an attribute loads the module, which takes its place.

    `importlib.util.LazyLoader` does not serve: on Python 3.11 to 3.13 the import statement itself
    looks at an attribute, and with that it loads.
    """

    def __getattr__(self, name: str):
        if name in ("__wrapped__", "_mock_name"):  # what pytest asks of whatever a module holds
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(load_module(self.__name__), name)


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
