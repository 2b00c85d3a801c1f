"""Answers the commands of `mutate_commands`, as lines of JSON.

    python tests/support/answer_commands.py wrong|right COUNT [SEED]

All of them in one process: Python starts once, and TensorFlow would be noticed.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import signal
import sys
import tempfile
import typing
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from support.mutate_commands import Case, right, wrong

from rlresearch.cli.main import main as command
from rlresearch.config.compose import compose
from rlresearch.training.experiment import plan
from rlresearch.training.run import Run

LONGEST_ANSWER_S = 120  # whatever takes so long hangs


def answer(case: Case, folder: Path) -> dict[str, typing.Any]:
    """What `python -m rlresearch` answers: code, out, err; whether TensorFlow was loaded."""
    Run.execute = lambda self: 0.0  # a command that is accepted must not train
    argv = _in_folder(case, folder)
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["rlresearch", *argv]
    path = list(sys.path)
    HydraConfig.instance().cfg = None  # as in a process of its own
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LONGEST_ANSWER_S)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = command()
        except BaseException as error:  # noqa: BLE001 (that nothing gets here is what is tested)
            code = f"{type(error).__name__}: {str(error)[:300]}"
    signal.alarm(0)
    sys.path[:] = path
    found = {"argv": argv, "kind": case.kind, "about": case.about, "code": code, "out": out.getvalue()}
    found |= {"err": err.getvalue(), "tf": "tensorflow.python" in sys.modules}
    peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]  # getrusage also tells a parent's
    return found | {"mb": int(peak) // 1024, "files": dict(case.files)}


def planned(case: Case, folder: Path) -> dict[str, typing.Any]:
    """Whether a right command has a plan: an empty `err`."""
    error = ""
    try:
        plan(compose(case.argv).config)
    except Exception as wrong:  # noqa: BLE001 (as above)
        error = f"{type(wrong).__name__}: {wrong}"
    return {"argv": case.argv, "err": error, "tf": "tensorflow.python" in sys.modules}


def _too_long(*_: object) -> typing.NoReturn:
    raise TooLong(f"no answer in {LONGEST_ANSWER_S} s")


class TooLong(BaseException):
    """Not an Exception, which the code under test could take for an error of the command's."""


def _in_folder(case: Case, folder: Path) -> list[str]:
    for name, text in case.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return [word.replace("FOLDER", str(folder)) for word in case.argv]


def main(which: str, count: str, seed: str = "0") -> None:
    """Prints the answers to so many cases, a line of JSON each."""
    cases, ask = (wrong, answer) if which == "wrong" else (right, planned)
    for case in itertools.islice(cases(int(seed)), int(count)):
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(ask(case, Path(folder))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
