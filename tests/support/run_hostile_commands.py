"""Commands given hostile run directories, under guard, a line of JSON each.

    python tests/support/run_hostile_commands.py FIRST COUNT

Each runs in a child of its own, forked from a process that has done the same with a good run. In it an audit hook
notes whatever leaves the run (files, sockets, processes, code that comes from the run), memory is limited to twice what
lies in the run beside a floor, and time to some seconds.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import sysconfig
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from support.corrupt_files import make_run
from support.hostile_files import CASES, HostileCase

from rlresearch.cli import evaluate, export, rerun
from rlresearch.cli.main import main as train
from rlresearch.errors import ConfigError
from rlresearch.review.__main__ import main as review
from rlresearch.runtime import devices
from rlresearch.training.run import Run

FLOOR_MB, LONGEST_S = 192, 8
BEYOND = "what follows would load TensorFlow"
REVIEW = {
    "ls": ["ls", "--format=json"],
    "columns": ["ls", "--varying", "--sort=final"],
    "show": ["show", "RUN", "--config"],
    "json": ["show", "RUN", "--json"],
    "diff": ["diff", "RUN", "GOOD"],
    "compare": ["compare", "--all", "--profile", "--resamples=100"],
    "curves": ["plot", "--all", "--metric=train/return"],
    "plot": ["plot", "--all", "-o", "OUT/plot.svg", "--each"],
    "table": ["table", "--all", "--resamples=100"],
    "runs": ["export", "-o", "OUT/runs.csv"],
    "metrics": ["export", "--rows=metrics", "-o", "OUT/metrics.csv"],
    "episodes": ["export", "--rows=episodes", "-o", "OUT/episodes.csv"],
    "report": ["report", "--all", "-o", "OUT/report.html", "--resamples=100"],
    "tail": ["tail", "RUN", "--no-follow"],
    "verify": ["verify"],
    "seal": ["verify", "--seal"],
    "archive": ["archive", "RUN", "-o", "OUT/packed.tar.gz"],
    "rm": ["rm", "RUN", "--yes"],
    "reproduce": ["reproduce", "RUN", "--dry"],
}
POLICY: dict[str, Callable[[Path, Path], int]] = {
    "resume": lambda run, out: train([f"resume={run}"]),
    "evaluate": lambda run, out: evaluate.main([str(run), "--checkpoint=best"]),
    "export policy": lambda run, out: export.main([str(run), str(out / "policy")]),
    "rerun": lambda run, out: rerun.main([str(run), "--runs-dir", str(out)]),
}
COMMANDS = [*POLICY, *REVIEW]
QUICK = [*POLICY, "ls", "show", "json", "diff", "tail", "verify", "reproduce"]  # what draws takes seconds to import


def run_command(name: str, root: Path) -> int:
    """The exit code of a command about the run `bad` below `root`."""
    run, out = root / "runs" / "bad", root / "out"
    if name in POLICY:
        return POLICY[name](run, out)
    words = {"RUN": str(run), "GOOD": str(root / "runs" / "good")}
    argv = [words.get(each, each.replace("OUT", str(out))) for each in REVIEW[name]]
    return review([*argv, "--runs-dir", str(root / "runs"), "--no-cache"])


def stop_before_tensorflow() -> None:
    def beyond(*_: object, **__: object) -> None:
        raise ConfigError(BEYOND)

    Run.train = devices.prepare = beyond


class Guard:
    """Notes what a command does that leaves `root`. Once there it cannot be taken away: for a child process."""

    READABLE = [sys.prefix, sys.base_prefix, sysconfig.get_paths()["stdlib"], str(Path(__file__).parents[2]), "/proc"]
    READABLE += ["/dev/null", "/dev/urandom", "/usr/share", "/usr/lib", "/etc", "/sys", "/lib"]
    FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn")
    FORBIDDEN += ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
    FORBIDDEN += ("ctypes.dlopen", "urllib.Request", "webbrowser.open", "pickle.find_class", "code.__new__")
    PATHS = ("os.truncate", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.listdir", "os.scandir", "os.chmod")
    PATHS += ("os.link", "os.symlink", "shutil.rmtree", "shutil.move", "shutil.copyfile", "glob.glob", "os.utime")

    def __init__(self, root: Path) -> None:
        self.root, self.noted = os.path.realpath(root), []
        self._known = {name.partition(".")[0] for name in sys.modules} | set(sys.stdlib_module_names) - {"antigravity"}
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple) -> None:
        if event == "open":
            path, mode, flags = arguments
            self._opened(path, mode, flags or 0)
        elif event in self.PATHS:
            for path in arguments[:2] if event in ("os.rename", "os.link") else arguments[:1]:
                self._inside(event, path, write=event not in ("os.listdir", "os.scandir", "glob.glob"))
        elif event == "subprocess.Popen" and arguments[1][:1] != ["git"]:  # what code this is, and not the run's
            self.noted.append(f"{event} {arguments[1]}")
        elif event == "import" and arguments[0].partition(".")[0] not in self._known:
            self.noted.append(f"import {arguments[0]}")
        elif event == "exec" and self.root in getattr(arguments[0], "co_filename", ""):
            self.noted.append(f"exec {arguments[0].co_filename}")
        elif event.startswith(self.FORBIDDEN):
            self.noted.append(f"{event} {str(arguments)[:80]}")

    def _opened(self, path: object, mode: object, flags: int) -> None:
        if isinstance(path, int):
            return
        write = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND))
        own = os.fsdecode(path)
        if flags & os.O_NOFOLLOW and os.path.islink(own):  # the kernel refuses it
            own = os.path.dirname(os.path.abspath(own))
        self._inside("open", own, write)

    def _inside(self, event: str, path: object, write: bool) -> None:
        if isinstance(path, int) or path is None:
            return
        real = os.path.realpath(os.fsdecode(path))
        allowed = ["/dev/null"] if write else [*self.READABLE, *map(os.path.realpath, self.READABLE)]
        if not any(real == each or real.startswith(f"{each}/") for each in [self.root, *allowed]):
            self.noted.append(f"{event} {real}{' to write' if write else ''}")


class TooLong(BaseException):
    """Not an Exception, which the code under test could take for an error of the command's."""


def attack(case: HostileCase, command: str, template: Path) -> dict:
    """What a command answers to a case, and what it did."""
    with tempfile.TemporaryDirectory() as folder:
        root, outside = Path(folder) / "root", Path(folder) / "outside"
        shutil.copytree(template, root, symlinks=True)
        outside.mkdir()
        (outside / "secret.txt").write_text("secret\n")
        case.spoil(root / "runs" / "bad", outside)
        before = {path: path.stat().st_size for path in outside.rglob("*") if path.is_file()}
        answer = _in_child(case, command, root)
        after = {path: path.stat().st_size for path in outside.rglob("*") if path.is_file()}
        if before != after:
            answer["noted"].append("something outside has changed")
        return {"case": case.name, "command": command, **answer}


def _in_child(case: HostileCase, command: str, root: Path) -> dict:
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        code = 1
        try:
            told = json.dumps(_guarded(case, command, root), default=str).encode()
            with os.fdopen(theirs, "wb") as pipe:
                pipe.write(told)
            code = 0
        finally:
            os._exit(code)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    return json.loads(told) if told else {"code": f"ended by {status}", "err": "", "out": "", "noted": []}


def _guarded(case: HostileCase, command: str, root: Path) -> dict:
    os.chdir(root)
    os.environ["SECRET"] = "hunter2"
    sys.path.insert(0, str(root / "runs" / "bad"))  # as if the user stood there: modules of the run could be imported
    signal.signal(signal.SIGALRM, _too_long)
    sizes = [path.stat().st_size for path in (root / "runs" / "bad").rglob("*") if path.is_file()]
    limit = _address_space() + (FLOOR_MB << 20) + 2 * sum(sizes)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    out, err = io.StringIO(), io.StringIO()
    guard = Guard(root)
    signal.alarm(LONGEST_S)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = run_command(command, root)
        except BaseException as error:  # noqa: BLE001 (that nothing gets here is what is tested)
            frames = traceback.extract_tb(error.__traceback__)
            last = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in frames]
            code = f"{type(error).__name__}: {str(error)[:200]} at {' '.join(last[-6:])}"
    signal.alarm(0)
    if "tensorflow.python" in sys.modules:
        guard.noted.append("TensorFlow was loaded")
    return {"code": code, "err": err.getvalue()[-3000:], "out": out.getvalue()[-3000:], "noted": guard.noted}


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _too_long(*_: object) -> None:
    raise TooLong(f"no answer in {LONGEST_S} s")


def pairs() -> list[tuple[HostileCase, str]]:
    """Every case with every command that reads what it spoils; first each case once, the commands taking turns."""
    made = []
    for turn in range(len(COMMANDS)):
        for at, case in enumerate(CASES):
            commands = case.commands or COMMANDS
            if turn < len(commands):
                made.append((case, commands[(at + turn) % len(commands)]))
    return made


def main(first: str, count: str, every: str = "1") -> None:
    """Prints the answers to so many pairs of a case and a command, from the first on, every so manieth."""
    stop_before_tensorflow()
    quick = [pair for pair in pairs() if int(every) == 1 or pair[1] in QUICK]
    chosen = quick[int(first) :: int(every)][: int(count)]
    with tempfile.TemporaryDirectory() as folder:
        template = Path(folder) / "root"
        for name in ("good", "bad"):
            make_run(template / "runs" / name)
        (template / "out").mkdir()
        warm = Path(folder) / "warm"
        shutil.copytree(template, warm)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            for command in COMMANDS:  # what it imports, it has imported before anything hostile is there
                if command not in ("rm", "archive") and command in {each for _, each in chosen}:
                    run_command(command, warm)
        for case, command in chosen:
            print(json.dumps(attack(case, command, template)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
