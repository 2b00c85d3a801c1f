"""What a command enters on its way to TensorFlow.

    python tests/support/trace_entry.py algo=ddpg env=pendulum runs_dir=FOLDER

Runs the command until TensorFlow is about to load, and prints, as JSON, how often each function was entered: those of
`rlresearch` and `hydra_plugins`, and Hydra's own composition. A class body, a comprehension or a lambda is no function
of its own.
"""

from __future__ import annotations

import collections
import inspect
import json
import sys
from pathlib import Path
from types import CodeType, FrameType

ROOT = Path(__file__).parents[2]
PACKAGES = tuple(f"{ROOT / name}/" for name in ("rlresearch", "hydra_plugins"))
COMPOSITION = "ConfigLoaderImpl.load_configuration"


class Reached(BaseException):
    """TensorFlow is about to load."""


def entered(argv: list[str]) -> dict[str, int]:
    """Calls by function, as `rlresearch/cli/main.py:main`."""
    from rlresearch import load_module
    from rlresearch.cli.main import main

    calls: collections.Counter[str] = collections.Counter()

    def profile(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call":
            return
        if code is load_module.__code__:
            sys.setprofile(None)
            raise Reached
        if code.co_filename.startswith(PACKAGES) and _is_function(code):
            calls[f"{Path(code.co_filename).relative_to(ROOT)}:{code.co_qualname}"] += 1
        elif code.co_qualname == COMPOSITION:
            calls[COMPOSITION] += 1

    sys.setprofile(profile)
    try:
        main(argv)
    except Reached:
        pass
    finally:
        sys.setprofile(None)
    return dict(sorted(calls.items()))


def _is_function(code: CodeType) -> bool:
    return bool(code.co_flags & inspect.CO_NEWLOCALS) and not code.co_name.startswith("<")


if __name__ == "__main__":
    print(json.dumps(entered(sys.argv[1:]), indent=1))
