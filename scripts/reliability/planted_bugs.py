"""Plants known bugs, one at a time, and asks whether the tests notice.

    python scripts/reliability/planted_bugs.py                    all of them, each beside the tests that it names
    python scripts/reliability/planted_bugs.py ppo advantage      those with either word in their name, group or file
    python scripts/reliability/planted_bugs.py 'td3-*' --all-tests  beside all default tests: minutes for each bug
    python scripts/reliability/planted_bugs.py --list             what there is, and what a researcher would see of it
    python scripts/reliability/planted_bugs.py --jobs 2           two at a time

The bugs stand in `bugs/*.toml` beside this file, a table for each with the bug's name; the file's name is its group:

    seen    what a researcher would see of it, one line
    file    the file that it is planted in
    before  text that stands there exactly once
    after   what takes its place; still Python
    tests   what must fail: `test_file.py::test_function`, below `tests/`

Git's tracked files are copied to a temporary folder, as they stand now. There the tests run once without a bug, for
where they fail already nothing would be learned, and then once for each bug, up to the first failure. A test that
fails catches the bug; a file that no longer imports does not, nor does a test that hangs.

Exit code 0 where every bug is caught; 1 where one is missed, its text is gone, or tests fail without it; 2 for a wrong
command.
"""

from __future__ import annotations

import argparse
import difflib
import fnmatch
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path
from queue import Queue
from typing import NamedTuple

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
BUGS = ROOT / "scripts" / "reliability" / "bugs"
OWN_TEST = "tests/architecture/test_planted_bugs.py"  # it says that every bug applies: where one is planted, none does
# Loaded once by the process from which each test run is forked: most of a short run would be these imports.
PRELOAD = ["tensorflow", "keras", "gymnasium", "scipy.stats", "hydra", "pydantic", "pytest"]
FORKS = multiprocessing.get_context("forkserver")
MISSED = "MISSED"
WITHOUT_A_BUG = 3_600  # seconds for all tests that any bug names, in one run


class Bug(NamedTuple):
    """One table of `scripts/reliability/bugs`; see above."""

    group: str
    name: str
    seen: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]

    def planted(self, text: str) -> str:
        """The file's text with the bug. ValueError unless there is one place for it."""
        count = text.count(self.before)
        if count != 1:
            raise ValueError(f"its text stands {count} times in {self.file}")
        return text.replace(self.before, self.after)


class Outcome(NamedTuple):
    """What became of a bug: the first test that failed, or why it was not caught; and how long that took."""

    caught_by: str | None
    otherwise: str
    seconds: float


def read(folder: Path = BUGS) -> list[Bug]:
    """All bugs, group by group. ValueError where a table is not one, or a name is there twice."""
    found: dict[str, Bug] = {}
    for path in sorted(folder.glob("*.toml")):
        for name, table in tomllib.loads(path.read_text()).items():
            if set(table) != set(Bug._fields) - {"group", "name"} or name in found:
                raise ValueError(f"{path.name}: [{name}]: must be the only one, of seen, file, before, after and tests")
            found[name] = Bug(path.stem, name, **table | {"tests": tuple(table["tests"])})
    return list(found.values())


def chosen(bugs: Iterable[Bug], words: Iterable[str]) -> list[Bug]:
    """The bugs that a word, or a pattern for whole names, picks; all without any. ValueError where one picks none."""
    bugs, picked = list(bugs), {}
    for word in words:
        own = [bug for bug in bugs if word in f"{bug.group}/{bug.name} {bug.file}" or fnmatch.fnmatch(bug.name, word)]
        if not own:
            close = difflib.get_close_matches(word, [bug.name for bug in bugs], n=1, cutoff=0.3)
            hint = f"; did you mean {close[0]!r}?" if close else ";"
            raise ValueError(f"{word!r} is in no bug's name, group or file{hint} --list shows all.")
        picked |= {bug.name: bug for bug in own}
    return list(picked.values()) or bugs


# Running tests on a copy.


def copy_of(root: Path, folder: Path) -> Path:
    """The files of a checkout that git tracks, as they stand there now. ValueError where it is none."""
    try:
        listed = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        why = (getattr(error, "stderr", None) or str(error)).strip()
        raise ValueError(f"{root}: must be a git checkout, as the files that git tracks are copied: {why}") from None
    for name in filter(None, listed.stdout.split("\0")):
        if (root / name).is_file():  # not one that was deleted since
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
    return folder


class Bench:
    """A copy of a checkout in which tests run, one process at a time."""

    def __init__(self, root: Path, folder: Path, time_limit: int) -> None:
        self.copy, self._scratch = copy_of(root, folder / "checkout"), folder
        self._time_limit = time_limit
        self._running: multiprocessing.Process | None = None

    def tried(self, bug: Bug, tests: list[str]) -> Outcome:
        """What the tests say of the bug; afterwards the file is what it was. ValueError where it cannot be planted."""
        path = self.copy / bug.file
        text = path.read_text()
        path.write_text(bug.planted(text))
        try:
            return self.ran(tests, self._time_limit)
        finally:
            path.write_text(text)

    def ran(self, tests: list[str], time_limit: int) -> Outcome:
        """Runs tests, named as for pytest, up to the first that fails."""
        log, begin = self._scratch / "log", time.perf_counter()
        log.write_text("")
        self._running = FORKS.Process(target=_pytest, args=(self.copy, tests, log))
        self._running.start()
        try:
            self._running.join(time_limit)
            code = self._running.exitcode
        finally:
            self.stop()
        seconds = time.perf_counter() - begin
        if code is None:
            return Outcome(None, f"not done after {time_limit} s", seconds)
        return Outcome(*_verdict(code, log.read_text(errors="replace")), seconds)

    def stop(self) -> None:
        """Ends the run with all that a test has started."""
        if self._running is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._running.pid, signal.SIGKILL)
            self._running.kill()
            self._running.join()


def start_forking(preload: list[str]) -> None:
    """Starts the process that test runs are forked from. What TensorFlow says when it is loaded is of no use here."""
    FORKS.set_forkserver_preload(preload)
    own = os.dup(2)
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        forkserver.ensure_running()
    finally:
        os.dup2(own, 2)
        os.close(own)


def _pytest(copy: Path, tests: list[str], log: Path) -> None:
    """One run of pytest, in a process of its own."""
    os.setsid()
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(written, 1)
    os.dup2(written, 2)
    os.chdir(copy)
    sys.path.insert(0, str(copy))  # before a checkout that is installed
    # A file that is changed twice in one second may have the time stamp and the size of what was compiled.
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(log.parent)}
    tempfile.tempdir = None  # to be read anew
    import pytest

    quiet = ["-x", "-q", "-rfE", "--tb=no", "-pno:cacheprovider", "-n0"]
    code = pytest.main([*quiet, f"--basetemp={log.parent / 'tmp'}", *tests])
    sys.stdout.flush()
    os._exit(int(code))


def _verdict(code: int, log: str) -> tuple[str | None, str]:
    """(the test that failed, why there is none)."""
    lines = log.strip().splitlines()
    failed = [line.partition(" ")[2] for line in lines if line.startswith(("FAILED ", "ERROR "))]
    if code == 1 and failed:
        return failed[0].partition(" - ")[0], ""
    if code == 0:
        return None, MISSED
    said = [*failed, *lines[-1:], "nothing"][0]
    return None, f"no test ran: pytest ended with code {code} and said: {said}"


# The command.


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Plants, runs and prints; see above for the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD", help="in a name, group or file, or a pattern of names")
    parser.add_argument("--list", action="store_true", help="show the bugs and run nothing")
    parser.add_argument("--all-tests", action="store_true", help="the whole default test run for each bug")
    parser.add_argument("--jobs", type=_count, default=1, help="bugs tried at a time, each in a copy of its own")
    parser.add_argument("--time-limit", type=_count, default=600, help="seconds for the tests of one bug")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        bugs = chosen(read(root / BUGS.relative_to(ROOT)), options.words)
    except ValueError as error:
        parser.error(str(error))
    if options.list:
        console.print(_listed(bugs))
        return 0
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}  # before TensorFlow is loaded
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what was started is ended
    with tempfile.TemporaryDirectory(prefix="planted_bugs_") as folder:
        jobs = range(min(options.jobs, len(bugs)))
        try:
            benches = [Bench(root, Path(folder) / str(job), options.time_limit) for job in jobs]
        except ValueError as error:
            parser.error(str(error))
        start_forking(PRELOAD)
        return report(bugs, benches, options.all_tests, console)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number above 0")
    return int(text)


def report(bugs: list[Bug], benches: list[Bench], all_tests: bool, console: Console) -> int:
    """First without a bug, then with each, shown as it comes."""
    tests = {bug: [f"--ignore={OWN_TEST}"] if all_tests else [f"tests/{test}" for test in bug.tests] for bug in bugs}
    with console.status("The tests without a bug ..."):
        sound = benches[0].ran(sorted(set().union(*tests.values())), time_limit=WITHOUT_A_BUG)
    if sound.otherwise != MISSED:
        console.print(f"[red]The tests fail without any bug:[/] {escape(sound.caught_by or sound.otherwise)}")
        return 1
    console.print(f"The tests pass without a bug ({sound.seconds:.0f} s).")
    table, caught, begin = _table("bug", "caught by", "seconds"), 0, time.perf_counter()
    with Live(table, console=console, vertical_overflow="visible", refresh_per_second=1):
        for bug, outcome in _tried(tests, benches):
            caught += outcome.caught_by is not None
            said = (outcome.caught_by or outcome.otherwise).removeprefix("tests/")
            missed = f"[red]{escape(said)}[/]\n{escape(bug.seen)}"
            table.add_row(bug.name, escape(said) if outcome.caught_by else missed, f"{outcome.seconds:.1f}")
            if not console.is_terminal:  # where the table comes only at the end
                print(f"{'caught' if outcome.caught_by else 'MISSED'}  {bug.name}  {said}", file=sys.stderr, flush=True)
    colour = "green" if caught == len(bugs) else "red"
    took = time.perf_counter() - begin
    console.print(f"\n[{colour}]{caught} of {len(bugs)} planted bugs were caught[/] in {took:.0f} s.")
    return 0 if caught == len(bugs) else 1


def _tried(tests: dict[Bug, list[str]], benches: list[Bench]) -> Iterator[tuple[Bug, Outcome]]:
    """Every bug on the next bench that is free, in the order in which they are done."""
    free: Queue[Bench] = Queue()
    for bench in benches:
        free.put(bench)

    def tried(bug: Bug) -> tuple[Bug, Outcome]:
        bench = free.get()
        try:
            return bug, bench.tried(bug, tests[bug])
        except ValueError as error:  # of `Bug.planted`
            return bug, Outcome(None, f"does not apply: {error}", 0.0)
        finally:
            free.put(bench)

    with ThreadPoolExecutor(len(benches)) as pool:
        try:
            for done in as_completed([pool.submit(tried, bug) for bug in tests]):
                yield done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for bench in benches:
                bench.stop()


def _listed(bugs: list[Bug]) -> Table:
    table = _table("bug", "file", "what a researcher would see")
    for bug in bugs:
        table.add_row(bug.name, bug.file.removeprefix("rlresearch/"), escape(bug.seen))
    return table


def _table(*names: str) -> Table:
    table = Table()
    for name in names:
        table.add_column(name, justify="right" if name == "seconds" else "left", overflow="fold")
    return table


if __name__ == "__main__":
    sys.exit(main())
