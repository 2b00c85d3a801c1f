"""Many controllers share a study in PostgreSQL: `pytest -m slow tests/search/test_search_postgresql.py`.

A server is started on the loopback address with a data directory of its own, and stopped; it needs PostgreSQL's
programs and the extra `postgresql`.
"""

import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import optuna
import pytest
from test_search import LR, SHORT, Launcher, asked

from rlresearch.sweeps.search import driver, report, settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("initdb") is None, reason="PostgreSQL's programs are not installed"),
]
TRIALS = 40


@pytest.fixture(scope="module")
def server():
    """The URL of a database that nobody else knows of; the server refuses to be run by root."""
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    user = {"user": "nobody"} if os.getuid() == 0 else {}
    if user:
        shutil.chown(folder, "nobody")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off"
    quiet = {"stdout": subprocess.DEVNULL, "check": True, "cwd": folder, **user}
    try:
        subprocess.run(["initdb", "-D", folder / "data", "-U", "search", "-A", "trust"], **quiet)
        subprocess.run(["pg_ctl", "-D", folder / "data", "-l", folder / "log", "-w", "-o", own, "start"], **quiet)
        yield f"postgresql+psycopg://search@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run(["pg_ctl", "-D", folder / "data", "-m", "immediate", "stop"], **{**quiet, "check": False})
        shutil.rmtree(folder, ignore_errors=True)


def controlled(url, folder, pause):
    """One controller, in a process of its own; its runs take `pause` seconds."""
    report.study_page = lambda *_: None
    words = [f"hydra.sweeper.storage='{url}'", "hydra.sweeper.study_name=many", f"hydra.sweeper.n_trials={TRIALS}"]
    words += ["hydra.sweeper.n_jobs=2", "hydra.sweeper.heartbeat_s=1", "hydra.sweeper.pruner=median"]
    launcher = Launcher()

    def launch(jobs, first):
        time.sleep(pause)
        return launcher(jobs, first)

    Path(folder).mkdir(exist_ok=True)
    driver.search(settings.prepare(asked(*SHORT, LR, *words)), launch, Path(folder))
    (Path(folder) / "numbers").write_text(" ".join(str(number) for number, _, _ in launcher.jobs))


def test_controllers_share_forty_trials_and_take_over_from_one_that_was_killed(server, tmp_path):
    spawn = multiprocessing.get_context("spawn")
    made = [
        spawn.Process(target=controlled, args=(server, str(tmp_path / name), pause))
        for name, pause in (("a", 0.2), ("b", 0.2), ("killed", 600.0))
    ]
    try:
        for each in made:
            each.start()
        study = _study(server)
        while not any(each.state.name == "RUNNING" for each in study.trials if _by(each) == "killed"):
            time.sleep(0.2)
        os.kill(made[2].pid, signal.SIGKILL)
        for each in made[:2]:
            each.join(timeout=300)
            assert each.exitcode == 0
    finally:
        for each in made:
            each.kill()
    time.sleep(3)  # whoever died is taken for dead by now
    controlled(server, str(tmp_path / "last"), 0.0)

    numbers = [int(word) for name in ("a", "b", "last") for word in (tmp_path / name / "numbers").read_text().split()]
    assert len(numbers) == len(set(numbers)) == TRIALS, "each trial was trained once, none too many"
    done = [each for each in study.trials if each.state.name in ("COMPLETE", "PRUNED")]
    assert sorted(each.number for each in done) == sorted(numbers)
    assert len({each.params["optimizer.lr"] for each in done}) == TRIALS
    left = [each for each in study.trials if _by(each) == "killed"]
    assert left and {each.state.name for each in left} == {"FAIL"}, "what the dead one had was queued anew"
    values = {each.params["optimizer.lr"] for each in done}
    assert {each.params["optimizer.lr"] for each in left} <= values
    assert (tmp_path / "a/numbers").read_text() and (tmp_path / "b/numbers").read_text()


def _study(url):
    for _ in range(600):
        try:
            return optuna.load_study(study_name="many", storage=url)
        except Exception:  # noqa: BLE001 (the controllers are still making it)
            time.sleep(0.2)
    raise AssertionError("no controller has made the study")


def _by(trial):
    return Path(trial.user_attrs.get("controller", "")).name
