"""A sweep plans its jobs once, isolates them, forgets none, and can be gone on with."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import yaml
from conftest import ALGORITHMS, NEEDED, ROOT, home, without_xla
from support.counting_runner import QUICK, folder_with

from rlresearch.cli.main import main
from rlresearch.config import compose
from rlresearch.config.overrides import sweep_jobs
from rlresearch.storage import checkpoint, jsonl, run_directory
from rlresearch.sweeps import jobs, ledger
from rlresearch.sweeps.ledger import FAILED, FINISHED, INTERRUPTED, KILLED, PENDING, PRUNED, RUNNING, TIMED_OUT


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """For --config-dir; what lies in it is importable for this test only."""
    monkeypatch.syspath_prepend(str(tmp_path / "own"))
    return folder_with(tmp_path / "own")


def sweep_in(runs):
    """The only sweep below a folder of runs."""
    (path,) = (runs / "sweeps").iterdir()
    return path


def record(job):
    return json.loads((job.run / "run.json").read_text())


def swept(folder, runs, *overrides, code=0):
    assert main([f"--config-dir={folder}", "-m", *QUICK, f"runs_dir={runs}", *overrides]) == code
    return ledger.read(sweep_in(runs)).jobs


# Planning.


@pytest.mark.parametrize(
    "sweep",
    [
        ["algo=ddpg,td3", "seed=1,2", "algo.gamma=0.9,1", "network.actor.hidden=[8],[8,8]"],
        ["algo=dqn", "env=cartpole", "total_steps=1000,2000", "seed=0,1"],  # schedules refer to total_steps
        ["env=gym", "env.id=MountainCarContinuous-v0", "env.kwargs={goal_velocity:0.1},{}", "seed=0,1"],
        ["optimizer=adam,sgd", "optimizer.max_grad_norm=null,1.5", "++seed=3,4"],
    ],
    ids=lambda sweep: sweep[0],
)
def test_a_frozen_job_is_what_hydra_composes(sweep):
    composer = jobs.Composer()
    batch = sweep_jobs(sweep)
    planned = composer.jobs(batch)
    for job in planned[:: max(1, len(planned) // 4)]:
        alone = compose.compose(job.overrides)
        assert jobs.frozen(job, composer.bases) == alone.config
        assert composer.bases[job.base].choices["tuned"] == alone.choices["tuned"]


# What is called for each job makes ten thousand of them take minutes.
COUNTED = """
import sys
from collections import Counter
from rlresearch.config import compose, overrides
from rlresearch.training import experiment
calls = Counter()

def counted(place, name):
    real = getattr(place, name)
    def call(*arguments, **named):
        calls[name] += 1
        return real(*arguments, **named)
    setattr(place, name, call)

counted(compose, "hydra_compose")
counted(overrides.OverridesParser, "parse_overrides")
counted(experiment, "plan")
from rlresearch.__main__ import main
code = main()
peak = open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]  # getrusage also tells of a parent
print(calls["hydra_compose"], calls["parse_overrides"], calls["plan"], peak, "tensorflow.python" in sys.modules)
sys.exit(code)
"""


def test_ten_thousand_jobs_are_planned_by_a_few_compositions():
    command = ["-m", "algo=ddpg,td3", "seed=range(0,1250)", "algo.gamma=0.95,0.97,0.98,0.99"]
    done = python("-c", COUNTED, *command, "hydra.sweeper.plan_only=true")
    assert done.returncode == 0, done.stderr
    *said, measured = done.stdout.splitlines()
    composed, parsed, planned, kilobytes, loaded = measured.split()
    assert said[0].startswith("10000 jobs")
    assert 2 <= int(composed) < 20 and 2 <= int(parsed) < 200 and 100 < int(planned) < 2_000
    assert int(kilobytes) < 1 << 20 and loaded == "False"


def test_64_processes_of_the_same_instant_make_64_directories(tmp_path, monkeypatch):
    monkeypatch.setattr(run_directory, "utc_now", lambda: datetime(2026, 1, 1, tzinfo=UTC))
    begin, go = os.pipe()
    pids = []
    for _ in range(64):
        pid = os.fork()
        if pid == 0:
            try:
                os.close(go)
                os.read(begin, 1)  # all at once, when the other end closes
                ledger.create(tmp_path / "sweeps")
                run_directory.make_unique_dir(tmp_path / "runs", "000000_ddpg_pendulum_s0")
                os._exit(0)
            finally:
                os._exit(1)
        pids.append(pid)
    os.close(go)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 64
    assert len(list((tmp_path / "sweeps").iterdir())) == len(list((tmp_path / "runs").iterdir())) == 64


BAD = [
    ("seed=range(0,0)", "must have at least one value"),
    ("algo.gama=0.9,0.8", "did you mean 'algo.gamma'?"),
    ("algo.gamma=0.9,2", "algo.gamma=2: must be a number from 0 to 1"),
    ("algo=q_learning,qlearning", "did you mean 'q_learning'?"),
    ("env=frozen_lake,pendulum", "discrete"),
    ("seed=interval(0,1)", "must be a list or a range"),
    ("hydra/launcher=fussed", "did you mean 'fused'?"),
    ("hydra/sweeper=besic", "did you mean 'basic'?"),
    ("hydra/launcher=local hydra.launcher.workers=0", "hydra.launcher.workers=0: must be a whole number above 0"),
    ("hydra/launcher=local hydra.launcher.workrs=2", "did you mean 'hydra.launcher.workers'?"),
    ("hydra/launcher=local hydra.launcher.workers=3 hydra.launcher.gpus=[0]", "must be at most 1"),
    ("hydra.sweeper.plan_only=2", "must be true or false"),
    ("hydra.sweep.dir=/dev/null/x", "cannot be written"),
]


@pytest.mark.parametrize("wrong, said", BAD, ids=[wrong for wrong, _ in BAD])
def test_a_bad_sweep_fails_before_its_first_job_with_one_line(folder, tmp_path, capsys, wrong, said):
    runs = tmp_path / "runs"
    seeds = [] if "seed" in wrong else ["seed=0,1"]
    assert main([f"--config-dir={folder}", "-m", *QUICK, f"runs_dir={runs}", *seeds, *wrong.split()]) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and err.startswith("rlresearch: ") and said in err
    assert out == "" and not runs.exists()


@pytest.mark.parametrize("launcher, module, extra", [("ray", "ray", "ray"), ("submitit_slurm", "submitit", "slurm")])
def test_a_launcher_whose_library_is_missing_says_how_to_install_it(capsys, monkeypatch, launcher, module, extra):
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == module else found(name, *rest))
    assert main(["-m", "seed=0,1", f"hydra/launcher={launcher}"]) == 2
    err = capsys.readouterr().err
    assert f"pip install 'rlresearch[{extra}]'" in err and err.count("\n") == 1


# The ledger.


def made_ledger(path):
    path.mkdir()
    book = ledger.Ledger(path)
    book.write("sweep", schema_version=1, launcher="basic")
    book.write_all([{"event": "base", "config": {"seed": 0}, "choices": {}, "tuned": {}}])
    book.write_all(
        {"event": "job", "job": n, "base": 0, "values": {"seed": n}, "overrides": [f"seed={n}"]} for n in (0, 1)
    )
    book.write("planned", jobs=2)
    ledger.begun(book, [0], [1])
    ledger.begun(book, [0], [1], [path.parent / "run"])
    ledger.ended(book, 0, 1, FINISHED, objective=float("nan"))
    ledger.begun(book, [1], [1])
    ledger.ended(book, 1, 1, FAILED, "planted")
    book.close()
    return path


def test_a_ledger_cut_at_any_byte_can_be_read_and_gone_on_with(tmp_path):
    path = made_ledger(tmp_path / "sweep")
    whole = (path / ledger.LEDGER).read_bytes()
    seen = set()
    for cut in range(whole.index(b"\n") + 1, len(whole) + 1, 3):
        (path / ledger.LEDGER).write_bytes(whole[:cut])
        book = ledger.Ledger(path, mends=True)
        book.write("resumed")
        book.close()
        account = ledger.read(path)
        assert [note["event"] for note in account.notes] == ["resumed"]
        seen.add(tuple(job.status for job in account.jobs))
    assert {(), (PENDING, PENDING), (RUNNING, PENDING), (FINISHED, RUNNING), (FINISHED, FAILED)} <= seen


def test_what_processes_elsewhere_wrote_counts_and_an_earlier_attempt_does_not(tmp_path):
    path = made_ledger(tmp_path / "sweep")
    other = ledger.Ledger.for_process(path)
    ledger.begun(other, [1], [2], [tmp_path / "second"])
    here = ledger.Ledger(path)
    ledger.ended(here, 1, 1, FINISHED, objective=1.0)  # of the attempt that was given up
    job = ledger.read(path).jobs[1]
    assert (job.status, job.attempts, job.run, job.objective) == (RUNNING, 2, tmp_path / "second", None)
    ledger.ended(other, 1, 2, INTERRUPTED)
    ledger.ended(here, 1, 2, TIMED_OUT, "too long")
    assert ledger.read(path).jobs[1].status == TIMED_OUT


# Basic.


def test_one_failed_job_ends_no_other_and_the_exit_code_says_so(folder, tmp_path, capsys):
    done = swept(folder, tmp_path / "runs", "runner.fault=none,exception,sys_exit,memory_error,not_a_number", code=1)
    assert [job.status for job in done] == [FINISHED, *[FAILED] * 4]
    assert [word in job.reason for word, job in zip(["planted", "4", "planted", "NaN"], done[1:])] == [True] * 4
    out, err = capsys.readouterr()
    assert "4 of 5 jobs did not finish (4 failed)" in err and "retry=failed" in err and err.count("\n") == 1
    assert "1 of 5 jobs finished" in out and "best jobs" in out and "did not finish" in out
    assert done[0].objective == record(done[0])["final_evaluation"]["mean"]
    assert record(done[1])["status"] == "failed" and record(done[1])["sweep"]["job"] == 1


def test_a_jobs_directory_has_the_files_and_the_configuration_of_the_run_alone(folder, tmp_path):
    (job, _) = swept(folder, tmp_path / "runs", "seed=5,6")
    assert main([f"--config-dir={folder}", *QUICK, f"runs_dir={tmp_path / 'runs'}", "seed=5"]) == 0
    alone = max((tmp_path / "runs").glob("20*/*"), key=lambda run: run.stat().st_ctime)
    assert {each.name for each in job.run.iterdir()} == {each.name for each in alone.iterdir()}
    assert (job.run / "config.yaml").read_bytes() == (alone / "config.yaml").read_bytes()
    theirs, own = (json.loads((run / "run.json").read_text()) for run in (alone, job.run))
    assert own.keys() == theirs.keys() and own["choices"] == theirs["choices"] and theirs["sweep"] is None


def test_only_what_has_not_finished_is_run_again_and_nothing_is_written_over(folder, tmp_path, capsys):
    runs = tmp_path / "runs"
    first = swept(folder, runs, "runner.fault=none,exception", "seed=1,2", code=1)
    before = {path: path.read_bytes() for job in first for path in job.run.rglob("*") if path.is_file()}
    path, own = sweep_in(runs), [f"--config-dir={folder}"]
    assert main([*own, f"resume={path}"]) == 1  # failed jobs only on request
    assert [job.attempts for job in ledger.read(path).jobs] == [1, 1, 1, 1]
    assert main([*own, f"resume={path}", "retry=failed"]) == 1
    again = ledger.read(path).jobs
    assert [(job.status, job.attempts) for job in again] == [(FINISHED, 1)] * 2 + [(FAILED, 2)] * 2
    assert [job.run for job in again[:2]] == [job.run for job in first[:2]]
    assert not {job.run for job in again[2:]} & {job.run for job in first}
    assert before == {path: path.read_bytes() for path in before}


def test_what_was_planned_is_run_whatever_becomes_of_the_configuration(folder, tmp_path, monkeypatch):
    """YAML edited while the first job runs changes nothing in the second."""
    from support.counting_runner import CountingRunner

    shipped = folder / "runner" / "counting.yaml"
    real = CountingRunner.advance

    def advance(self, iterations, fresh):
        shipped.write_text(shipped.read_text().replace("scale: 1.0", "scale: 7.0"))
        real(self, iterations, fresh)

    monkeypatch.setattr("counting.CountingRunner.advance", advance)
    done = swept(folder, tmp_path / "runs", "seed=0,1")
    assert "scale: 7.0" in shipped.read_text()
    for job in done:
        assert yaml.safe_load((job.run / "config.yaml").read_text())["runner"]["scale"] == 1.0


def test_a_sweep_told_to_stop_says_how_to_go_on_and_goes_on_at_the_checkpoint(folder, tmp_path, monkeypatch, capsys):
    from support.counting_runner import FAULTS

    monkeypatch.setitem(FAULTS, "exception", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    runs = tmp_path / "runs"
    slow = ["runner.step_s=0.01", "runner.fault=exception", "runner.at=30"]
    stopped = swept(folder, runs, "seed=0,1,2", *slow, code=143)
    assert [job.status for job in stopped] == [INTERRUPTED, PENDING, PENDING]
    path = sweep_in(runs)
    assert f"resume={path}" in capsys.readouterr().err
    monkeypatch.setitem(FAULTS, "exception", lambda _: None)
    assert main([f"--config-dir={folder}", f"resume={path}"]) == 0
    done = ledger.read(path).jobs
    assert [(job.status, job.attempts) for job in done] == [(FINISHED, 2), (FINISHED, 1), (FINISHED, 1)]
    assert (
        done[0].run == stopped[0].run and record(done[0])["resumes"][0]["step"] == record(stopped[0])["total_steps"] > 0
    )
    assert len(list((runs).glob("20*/*"))) == 3


def test_a_job_whose_process_is_told_to_leave_has_not_failed_and_goes_on(folder, tmp_path, monkeypatch):
    """As Ray ends the jobs of a controller that was killed, before a run hears of signals itself."""
    with monkeypatch.context() as patched:
        patched.setattr("rlresearch.sweeps.attempt.execute", lambda *_: sys.exit(1))
        with pytest.raises(SystemExit):
            swept(folder, tmp_path / "runs", "seed=0,1")
    path = sweep_in(tmp_path / "runs")
    assert ledger.read(path).jobs[0].status == INTERRUPTED
    assert main([f"--config-dir={folder}", f"resume={path}"]) == 0
    assert [job.status for job in ledger.read(path).jobs] == [FINISHED, FINISHED]


def test_a_search_told_to_stop_goes_on_at_the_checkpoint_of_its_trial(folder, tmp_path, monkeypatch):
    from support.counting_runner import FAULTS

    words = [f"--config-dir={folder}", "-m", *QUICK, "runner.scale=interval(1,2)", "runner.fault=exception"]
    words += ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2", "runner.step_s=0.01"]
    stops, runs = iter([False, True, False, False]), tmp_path / "runs"
    monkeypatch.setitem(FAULTS, "exception", lambda _: next(stops) and os.kill(os.getpid(), signal.SIGTERM))
    assert main([*words, f"runs_dir={runs}", "runner.at=30"]) == 143
    search = sweep_in(runs)
    assert main([f"resume={search}"]) == 2  # code is run from the folder, which only the user may name
    assert main([f"--config-dir={folder}", f"resume={search}"]) == 0
    (accounts,) = [ledger.read(path.parent) for path in search.glob("*/ledger.jsonl")]
    assert [(job.status, job.attempts) for job in accounts.jobs] == [(FINISHED, 1), (FINISHED, 2), (FINISHED, 1)]
    assert record(accounts.jobs[1])["resumes"][0]["step"] >= 30
    assert len(list(runs.glob("20*/*"))) == 3
    assert [json.loads(line)["state"] for line in open(search / "trials.jsonl")] == ["complete"] * 3


def test_a_run_that_goes_on_does_not_open_the_study_that_it_names(folder, tmp_path, monkeypatch):
    from support.counting_runner import FAULTS

    monkeypatch.setitem(FAULTS, "exception", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    words = [f"--config-dir={folder}", *QUICK, f"runs_dir={tmp_path / 'runs'}", "runner.fault=exception"]
    assert main(words) == 143
    (run,) = (tmp_path / "runs").glob("20*/*")
    told = json.loads((run / "run.json").read_text())
    told["trial"] = {"storage": str(tmp_path / "outside"), "study": "x", "number": 0, "part": 0}
    (run / "run.json").write_text(json.dumps(told))
    assert main([f"--config-dir={folder}", f"resume={run}"]) == 0
    assert not (tmp_path / "outside").exists() and "study" not in (run / "log.txt").read_text()


def test_no_secret_is_written_and_a_sweep_that_goes_on_asks_for_it(folder, tmp_path, capsys):
    shipped = folder / "runner" / "counting.yaml"
    shipped.write_text(shipped.read_text() + "token: none\n")
    secret = ["seed=0,1", "runner.token=hunter2hunter2", "runner.fault=exception"]
    swept(folder, tmp_path / "runs", *secret, code=1)
    path = sweep_in(tmp_path / "runs")
    assert all(b"hunter2" not in each.read_bytes() for each in path.rglob("*") if each.is_file())
    again = [f"--config-dir={folder}", f"resume={path}", "retry=failed"]
    assert main(again) == 2
    assert "runner.token: is a secret" in capsys.readouterr().err
    assert main([*again, "runner.token=hunter2hunter2"]) == 1
    assert [job.attempts for job in ledger.read(path).jobs] == [2, 2]


def test_two_controllers_do_not_meet(folder, tmp_path, capsys):
    path = made_ledger(tmp_path / "sweep")
    held = ledger.locked(path)
    assert main([f"--config-dir={folder}", f"resume={path}"]) == 2
    assert "another process is at work on this sweep" in capsys.readouterr().err
    os.close(held)


@pytest.mark.parametrize(
    "words, said",
    [
        (["seed=3"], "cannot be changed while a sweep goes on"),
        (["retry=all"], "must be one of failed, none"),
        (["hydra/launcher=locla"], "did you mean 'local'?"),
        (["hydra.launcher.workers=2"], "hydra.launcher.workers=2"),  # of another launcher
    ],
)
def test_a_wrong_word_where_a_sweep_goes_on_is_one_line(folder, tmp_path, capsys, words, said):
    path = made_ledger(tmp_path / "sweep")
    before = (path / ledger.LEDGER).read_bytes()
    assert main([f"--config-dir={folder}", f"resume={path}", *words]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert (path / ledger.LEDGER).read_bytes() == before


# Local.

FAULTS = {
    "hang": TIMED_OUT,  # first, so that the others run while it is waited for
    "none": FINISHED,
    "exception": FAILED,
    "exit": FAILED,
    "kill": KILLED,
    "segfault": KILLED,
    "memory": KILLED,
    "not_a_number": FAILED,
    "disk": FAILED,
    "directory": FAILED,
    "environment": FAILED,
}
REASONS = {
    "exception": ["planted"],
    "exit": ["exit code 3"],
    "kill": ["SIGKILL"],
    "segfault": ["SIGSEGV"],
    "hang": ["hang_minutes"],
    "memory": ["memory_gb"],
    "not_a_number": ["NaN"],
    "disk": ["disk full", "File too large"],
    "directory": ["cannot be written"],
    "environment": ["environment 'FrozenLake-v1'"],
}


def python(*arguments, **more):
    places = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    environment = {**os.environ, "PYTHONPATH": places, "CUDA_VISIBLE_DEVICES": "-1"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, **more)


LIMITS = ["hydra/launcher=local", "hydra.launcher.workers=2", "hydra.launcher.hang_minutes=0.5"]
LIMITS += ["hydra.launcher.memory_gb=1.2"]


def check_faults(folder, tmp_path, *more):
    """Every kind of fault, in a sweep of processes of their own."""
    words = [f"runner.fault={','.join(FAULTS)}", *LIMITS, f"runs_dir={tmp_path / 'runs'}", *more]
    done = python("-m", "rlresearch", f"--config-dir={folder}", "-m", *QUICK, *words)
    assert done.returncode == 1, done.stderr
    told = ledger.read(sweep_in(tmp_path / "runs")).jobs
    for job in told:
        fault = next(text for text in job.overrides if "fault" in text).partition("=")[2]
        assert job.status == FAULTS[fault], (fault, job.reason)
        assert fault == "none" or any(word in job.reason for word in REASONS[fault]), job.reason
    assert not processes_of(tmp_path)
    return told


def test_whatever_happens_to_a_job_every_other_finishes_and_each_has_its_reason(folder, tmp_path):
    assert len(check_faults(folder, tmp_path)) == len(FAULTS)


@pytest.mark.slow
def test_a_hundred_jobs_of_which_most_fail(folder, tmp_path):
    assert len(check_faults(folder, tmp_path, "seed=range(0,10)")) == 10 * len(FAULTS)


@pytest.mark.slow
@pytest.mark.parametrize("script", [["sweep_kills.py", "--kills", "3"], ["sweep_ray.py"]], ids=lambda words: words[0])
def test_scripts_find_nothing_wrong(script):
    done = python(str(ROOT / "scripts" / "reliability" / script[0]), *script[1:])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_submitit_starts_a_process_for_each_job(folder, tmp_path):
    words = ["hydra/launcher=submitit_local", "runner.fault=none,exception,kill", f"runs_dir={tmp_path / 'runs'}"]
    done = python("-m", "rlresearch", f"--config-dir={folder}", "-m", *QUICK, *words)
    assert done.returncode == 1, done.stderr
    told = ledger.read(sweep_in(tmp_path / "runs")).jobs
    assert [job.status for job in told] == [FINISHED, FAILED, KILLED] and "planted" in told[1].reason
    assert len({job.pid for job in told}) == 3


def processes_of(folder):
    """Processes that hold a file below a folder, or were told of it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                told = str(folder).encode() in (entry / "cmdline").read_bytes()
                held = any(str(folder) in os.readlink(each) for each in (entry / "fd").iterdir())
            except OSError:
                continue
            if told or held:
                found.append(int(entry.name))
    return found


# Fused.

STEADY = ["env.max_episode_steps=13", "checkpoint.every_minutes=null"]  # whatever a busy machine does
LAKE = ["env=frozen_lake", "total_steps=60", "eval.every_steps=20", "eval.episodes=2", "eval.final_episodes=3"]
LAKE += ["logger.every_steps=20", "checkpoint.every_steps=25", "device=cpu", "compile_cache=false"]
LAKE += [*STEADY, "algo.learning_starts=0", "tuned=none", "algo=q_learning", "algo.alpha=0.5"]
TIMES = {"time", "speed/steps_per_second"}
RUN_TIMES = {"started_at", "finished_at", "training_time_s", "wall_time_s", "steps_per_second", "pid", "command"}


def files(run):
    """Names below a run; a file of rows has a random part in its name."""
    return {str(path.relative_to(run)).partition("-")[0] for path in run.rglob("*") if path.is_file()}


def rows(run, name):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in jsonl.read_rows(run / f"{name}.jsonl")]


def flat(record):
    return {key: value for key, value in record.items() if key not in {*RUN_TIMES, "overrides", "sweep", "resumes"}}


def check_equal(fused, alone):
    """A fused job's directory is what the run alone leaves, in form and, but for rounding, in content."""
    assert files(fused) == files(alone)
    ours, theirs = (re.sub("(?m)^runs_dir.*$", "", (run / "config.yaml").read_text()) for run in (fused, alone))
    assert ours == theirs
    for name in ("metrics", "evaluations"):
        ours, theirs = rows(fused, name), rows(alone, name)
        assert len(ours) == len(theirs) > 0
        for one, two in zip(ours, theirs):
            assert one.keys() == two.keys()
            for key in one:
                assert one[key] == pytest.approx(two[key], rel=1e-3, abs=1e-3, nan_ok=True), key
    ours, theirs = (json.loads((run / "run.json").read_text()) for run in (fused, alone))
    assert ours.keys() == theirs.keys()
    differing = {key for key in flat(ours) if flat(ours)[key] != flat(theirs)[key]}
    assert differing <= {"state_digest", "final_evaluation"}


def stray(patch):
    """The first member of any population holds NaN from step 35 on, and the last job is pruned at step 40."""
    from rlresearch.runners.population import PopulationRunner

    real = PopulationRunner.advance

    def advance(self, iterations, fresh):
        real(self, iterations, fresh)
        if self.iteration == 35:
            state = self.state()
            broken = tf.concat([state.algo.tables[:1] * np.nan, state.algo.tables[1:]], 0)
            self.restore(35, state._replace(algo=state.algo._replace(tables=broken)), {})

    trial = {"storage": "journal.log", "study": "lake", "number": 0, "part": 0}

    def trials_of(request, members, resumed=False):
        if members == 3:
            return [None, None, trial]
        return [trial if request.config["algo"]["gamma"] == 0.7 else None]

    class Reporter:
        """A study that prunes at step 40."""

        pruned_at = None

        def __init__(self, own):
            self.members = own.members

        def should_continue(self, step, means):
            return step != 40

        def record(self, summaries, runs):
            assert [each["status"] for each in summaries] == ["pruned"]

    patch.setattr("rlresearch.training.run_directories.trials_of", trials_of)
    patch.setattr("rlresearch.training.pruner.TrialReporter", Reporter)
    patch.setattr(PopulationRunner, "advance", advance)
    patch.setattr("rlresearch.training.pace.Pace.iterations", lambda self, seconds: 10)


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """(jobs of a fused sweep, of which the first goes astray; the others run by the basic launcher)"""
    made = []
    for launcher, gammas, code in (("fused", "0.9,0.5,0.7", 1), ("basic", "0.5,0.7", 0)):
        runs = tmp_path_factory.mktemp(launcher)
        sweep = ["seed=3", f"algo.gamma={gammas}", f"hydra/launcher={launcher}", f"runs_dir={runs}"]
        with without_xla(), pytest.MonkeyPatch.context() as patch:
            stray(patch)
            assert main(["-m", *LAKE, *sweep]) == code
        made.append(ledger.read(sweep_in(runs)).jobs)
    return made


def test_each_fused_job_is_its_run_alone_in_files_and_numbers(lake):
    for fused, alone in zip(lake[0][1:], lake[1], strict=True):
        check_equal(fused.run, alone.run)
        assert fused.objective == pytest.approx(alone.objective, rel=1e-3)
    assert record(lake[0][1])["sweep"]["fused"] is True and len({job.run for job in lake[0]}) == 3


def test_a_member_that_goes_astray_fails_alone(lake):
    """The others go on beside it; nothing more of it is logged, and the checkpoints before it are its own."""
    bad, *good = lake[0]
    assert [job.status for job in lake[0]] == [FAILED, FINISHED, PRUNED] and {job.attempts for job in lake[0]} == {1}
    assert "NaN by step 40" in bad.reason and record(bad)["reason"]["error"] == bad.reason
    assert record(bad)["status"] == "failed" and record(bad)["total_steps"] == 40
    assert [row["step"] for row in rows(bad.run, "metrics")] == [20]
    assert checkpoint.names(bad.run) == ["000000000025", "000000000020"]
    tables = [checkpoint.load(job.run, "000000000025").arrays["state.algo.tables"] for job in lake[0]]
    assert np.isfinite(tables).all()


def test_a_pruned_member_ends_with_the_checkpoint_that_its_run_alone_ends_with(lake):
    """The others went on to step 60, and the program saved at step 50 what had stood still since 40."""
    fused, alone = lake[0][2], lake[1][1]
    assert record(fused)["state_digest"] == record(alone)["state_digest"]
    ours, theirs = (checkpoint.load(job.run, checkpoint.names(job.run)[0]) for job in (fused, alone))
    assert ours.path.name == theirs.path.name == "000000000040"
    assert (ours.about.iteration, ours.about.position) == (theirs.about.iteration, theirs.about.position)
    assert ours.arrays.keys() == theirs.arrays.keys()
    for name, array in ours.arrays.items():
        np.testing.assert_array_equal(array, theirs.arrays[name])


@pytest.mark.slow
def test_a_fused_job_can_be_gone_on_with_alone(lake):
    ours, theirs = lake[0][1], lake[1][0]
    for job in (ours, theirs):
        with without_xla():
            assert main([f"resume={job.run}", "total_steps=80"]) == 0
    check_equal(ours.run, theirs.run)
    assert record(ours)["total_steps"] == 80 and record(ours)["resumes"][0]["step"] == 60


def small(name):
    """A short run of a shipped algorithm with small networks."""
    env = [f"algo={name}", f"env={home(name)}", *NEEDED.get(name, []), "tuned=none"]
    config = compose.compose(env).config
    own = {"batch_size": 8, "learning_starts": 16, "rollout_steps": 8, "epochs": 2, "minibatches": 2}
    words = [f"algo.{key}={value}" for key, value in own.items() if key in config["algo"]]
    words += [f"network.{part}.hidden=[8]" for part in config["network"]]
    words += ["buffer.capacity=50"] if "capacity" in config["buffer"] else []
    words += ["eval.every_steps=32", "eval.episodes=1", "eval.final_episodes=2", "logger.every_steps=16"]
    return [*env, *words, "total_steps=64", "device=cpu", "checkpoint.every_steps=32", *STEADY]


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_fused_is_its_run_alone(name, tmp_path):
    gamma = [f"algo.gamma={value}" for value in (0.9, 0.8)]
    words = ["seed=3", "algo.gamma=0.9,0.8", "hydra/launcher=fused", f"runs_dir={tmp_path / 'fused'}"]
    assert main(["-m", *small(name), *words]) == 0
    first, second = ledger.read(sweep_in(tmp_path / "fused")).jobs
    assert main([*small(name), "seed=3", gamma[1], f"runs_dir={tmp_path / 'alone'}"]) == 0
    (alone,) = (path.parent for path in (tmp_path / "alone").glob("*/*/run.json"))
    check_equal(second.run, alone)
    assert record(first)["sweep"]["fused"] is True and first.attempts == 1
