"""A run that was killed and goes on is the run that was never killed, to the bit."""

import json
import math
import os
import shutil
import signal
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from conftest import RandomActions, leaves, make_plan, same_bits, without_xla
from support.failing_disks import read_only

from rlresearch.buffers import Uniform, pack
from rlresearch.cli.evaluate import main as evaluate
from rlresearch.cli.export import main as export
from rlresearch.cli.main import main
from rlresearch.errors import ConfigError, RunError
from rlresearch.evaluation.evaluator import Evaluator
from rlresearch.loggers.file_logger import FileLogger
from rlresearch.runners import Device, Host, Population
from rlresearch.runners.device import DeviceRunner
from rlresearch.runners.host import HostRunner
from rlresearch.runners.step import TrainingStep
from rlresearch.runtime.signals import SignalHandler
from rlresearch.storage import checkpoint, rollback
from rlresearch.storage.jsonl import JsonLines, read_rows
from rlresearch.storage.run_directory import RunDirectory
from rlresearch.training import checkpointing, resume, state_io
from rlresearch.training.callbacks import LoopPosition, Milestone
from rlresearch.training.checkpointing import Checkpointer, CheckpointFacts
from rlresearch.training.loop import LoopSettings, TrainingLoop
from rlresearch.training.outcome import RunRecorder
from rlresearch.training.state_io import begin_from, restore, state_digest

pytestmark = pytest.mark.usefixtures("quick_draws_throughout")
SMALL = ["network.actor.hidden=[8]", "network.critic.hidden=[8]", "tuned=none", "device=cpu", "compile_cache=false"]
SMALL += ["eval.every_steps=48", "eval.episodes=2", "eval.final_episodes=3", "env.max_episode_steps=13"]
SMALL += ["logger.every_steps=16", "logger.console=none", "checkpoint.every_steps=24", "total_steps=120"]
REPLAY = ["algo.learning_starts=20", "algo.batch_size=8", "buffer.capacity=40"]
RUNS = {
    "device": [*REPLAY, "algo=td3", "buffer=prioritized", "buffer.n_step=3", "env.num_envs=2"],
    "rollouts": ["algo=ppo", "algo.rollout_steps=32", "algo.minibatches=2", "algo.epochs=2", "normalize=running"],
    "host": ["runner=host", "env.num_envs=3", "noise=ou", *REPLAY],
    "population": ["runner=population", "runner.seeds=2", "runner.values={algo.gamma:[0.9,0.99]}", *REPLAY],
}
KILLED_AT = 84  # steps; the checkpoint before it is at 72
TIMES = {"time", "speed/steps_per_second"}


def runs_in(folder):
    return sorted(path.parent for path in folder.glob("*/*/run.json"))


def record(run):
    return json.loads((run / "run.json").read_text())


def rows(run, name):
    """As text, since NaN is not itself."""
    return [repr({k: v for k, v in row.items() if k not in TIMES}) for row in read_rows(run / f"{name}.jsonl")]


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def at_step(patch, step, happens):
    """`happens(loop)` once, where the loop of calls passes that step."""
    real, done = TrainingLoop.advance, []

    def advance(self, until):
        iteration = -(-step // self.task.num_envs)
        if until >= iteration > self.runner.iteration and not done:
            real(self, iteration)
            done.append(True)
            happens(self)
        real(self, until)

    patch.setattr(TrainingLoop, "advance", advance)


RUNNERS = {}


def started(part, trainer, task, seed):
    """The runner that was made before for the same, taken back to its beginning: tracing is what takes time here.

    What a checkpoint forgot is then not as it is at the beginning of a run, but as it was at the end of another.
    """
    what = repr((part, trainer, task, seed))
    if what not in RUNNERS:
        runner = START[type(part)](part, trainer, task, seed)
        begin = (
            tf.nest.map_structure(tf.identity, runner.state()),
            {k: v.copy() for k, v in runner.extra_state().items()},
        )
        RUNNERS[what] = runner, begin, runner.close
        runner.close = lambda: None
    runner, begin, _ = RUNNERS[what]
    runner.restore(0, *begin)
    return runner


START = {part: part.start for part in (Device, Host, Population)}


@pytest.fixture(scope="module", autouse=True)
def runners_made_once():
    with pytest.MonkeyPatch.context() as patch:
        for part in START:
            patch.setattr(part, "start", started)
        yield
    for _, _, close in RUNNERS.values():
        close()
    RUNNERS.clear()


def ran(*overrides, code=0):
    with without_xla():
        assert main([*overrides]) == code


def killed_copy(kind, whole, killed):
    """Trains into `whole`; `killed` becomes a copy made at KILLED_AT: what a process leaves that is killed there."""

    def copy(loop):
        next(each for each in loop.callbacks if isinstance(each, Checkpointer)).wait()
        shutil.copytree(whole, killed)

    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, KILLED_AT, copy)
        ran(*RUNS[kind], *SMALL, f"runs_dir={whole}")


@pytest.fixture(scope="module", params=RUNS)
def both(request, tmp_path_factory):
    """(kind, runs that were never killed, the same killed at KILLED_AT and gone on with)."""
    whole, killed = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("killed") / "runs"
    killed_copy(request.param, whole, killed)
    runs = runs_in(killed)
    assert all(record(run)["status"] == "running" for run in runs)
    with JsonLines(runs[0] / "metrics.jsonl").named_errors():  # a row that the killed process did not finish
        (runs[0] / "metrics.jsonl").open("a").write('{"step": 2')
    ran(f"resume={runs[-1]}")
    return request.param, runs_in(whole), runs


def test_the_last_state_is_the_same_to_the_bit(both):
    _, whole, killed = both
    assert [run.name for run in whole] == [run.name for run in killed]
    digests = [[record(run)["state_digest"] for run in runs] for runs in (whole, killed)]
    assert digests[0] == digests[1] and None not in digests[0]
    assert len(set(digests[0])) == len(whole)  # each member has learned something of its own
    arrays = [checkpoint.newest(runs[0])[0].arrays for runs in (whole, killed)]
    for name in arrays[0]:
        np.testing.assert_array_equal(*(each[name] for each in arrays), err_msg=name)


def test_every_row_is_there_once_and_says_the_same(both):
    _, whole, killed = both
    for one, two in zip(whole, killed, strict=True):
        assert len(rows(one, "metrics")) == 8 and len(rows(one, "evaluations")) == 3
        for name in ("metrics", "evaluations"):
            assert rows(one, name) == rows(two, name)
        assert (one / "config.yaml").read_text() == (two / "config.yaml").read_text().replace(
            str(two.parents[1]), str(one.parents[1])
        )


def test_where_it_went_on_is_recorded_and_what_was_cut_off_is_compared_and_gone(both):
    _, whole, killed = both
    for one, two in zip(whole, killed, strict=True):
        before, ended = record(one), record(two)
        (went_on,) = ended["resumes"]
        assert (went_on["step"], went_on["changed"]) == (72, {}) and before["resumes"] == []
        assert ended["nondeterminism"] is None and not list(two.glob("*.cut.*"))
        assert ended["final_evaluation"] == before["final_evaluation"] and ended["status"] == "finished"
        assert [ended[key] for key in ("started_at", "seed", "choices")] == [
            before[key] for key in ("started_at", "seed", "choices")
        ]


def test_the_same_checkpoints_lie_there(both):
    _, whole, killed = both
    assert checkpoint.names(whole[0]) == checkpoint.names(killed[0])
    assert all(not (run / "checkpoints").exists() for run in whole[1:])  # a population has one for all
    left = [path.name for run in whole + killed for path in run.rglob("*") if "tmp" in path.name]
    assert not left


# One kind is enough for the rest.


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """(a run that finished, the same as it was when it was killed): plain DDPG on the device."""
    whole, killed = tmp_path_factory.mktemp("pair"), tmp_path_factory.mktemp("killed") / "runs"
    RUNS["plain"] = REPLAY
    killed_copy("plain", whole, killed)
    del RUNS["plain"]
    return runs_in(whole)[0], runs_in(killed)[0]


@pytest.fixture
def killed(pair, tmp_path):
    """A copy of its own of the killed run."""
    return shutil.copytree(pair[1], tmp_path / "2026-11-21" / pair[1].name)


def test_a_signal_saves_the_exact_step_in_training_and_in_evaluation(pair, tmp_path, capsys):
    """SIGUSR1 in training, then SIGTERM in an evaluation: what goes on from both is the run never stopped."""

    def in_evaluation(self, policy, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        while True:  # the signal's thread takes a moment
            policy(np.zeros((1, 1, 3), np.float32))

    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 62, lambda loop: os.kill(os.getpid(), signal.SIGUSR1) or wait_for(loop))
        ran(*REPLAY, *SMALL, f"runs_dir={tmp_path}", code=138)
    (run,) = runs_in(tmp_path)
    assert checkpoint.newest(run)[0].about.step == 62
    ended = record(run)
    assert (ended["status"], ended["reason"]["error"], ended["total_steps"]) == ("interrupted", "SIGUSR1", 62)
    assert f"interrupted by SIGUSR1 at step 62; to go on: python -m rlresearch resume={run}" in capsys.readouterr().err
    (*_, line) = (run / "log.txt").read_text().splitlines()  # nothing went wrong: no error, no traceback
    assert line.endswith("WARNING rlresearch: interrupted by SIGUSR1 at step 62")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluator, "run", in_evaluation)
        ran(f"resume={run}", code=143)
    assert checkpoint.newest(run)[0].about.step == 96 and len(rows(run, "evaluations")) == 1
    ran(f"resume={run}")
    assert record(run)["state_digest"] == record(pair[0])["state_digest"]
    assert rows(run, "metrics") == rows(pair[0], "metrics")
    assert rows(run, "evaluations") == rows(pair[0], "evaluations")
    assert [each["step"] for each in record(run)["resumes"]] == [62, 96]


def test_a_signal_of_the_last_moments_ends_a_sweep_after_a_run_that_has_finished(tmp_path, capsys):
    real = RunRecorder.finish

    def finish(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunRecorder, "finish", finish)
        ran("-m", "seed=0,1", *REPLAY, *SMALL, f"runs_dir={tmp_path}", code=143)
    (run,) = runs_in(tmp_path)
    assert record(run)["status"] == "finished" and "interrupted by SIGTERM; to go on: " in capsys.readouterr().err


def test_a_signal_that_a_process_was_told_to_ignore_stays_ignored():
    """As Ctrl-C is by what a shell script runs in the background."""
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with SignalHandler() as watch:
            os.kill(os.getpid(), signal.SIGUSR1)
        watch.check()
    finally:
        signal.signal(signal.SIGUSR1, before)


def wait_for(loop):
    """The signal's thread takes a moment; `poll` then raises, as it would after the next call."""
    while True:
        loop.poll()


def test_a_damaged_checkpoint_is_passed_over_and_the_run_still_comes_out_the_same(pair, killed, capsys):
    newest = killed / "checkpoints" / checkpoint.names(killed)[0] / "state.safetensors"
    damaged = bytearray(newest.read_bytes())
    damaged[-3] ^= 1
    newest.write_bytes(damaged)
    ran(f"resume={killed}")
    assert record(killed)["resumes"][0]["step"] < 72
    log = (killed / "log.txt").read_text()
    assert "checkpoint 000000000072 is damaged: state.safetensors: tensor 'state." in log
    assert (killed / "checkpoints" / "damaged-000000000072").is_dir()
    assert record(killed)["state_digest"] == record(pair[0])["state_digest"]
    assert rows(killed, "metrics") == rows(pair[0], "metrics")


FORGOTTEN = ["key", "algo.critic_optimizer", "algo.target_actor", "buffer.added", "env.elapsed", "episodes", "totals"]


@pytest.mark.parametrize("what", [*FORGOTTEN, "fresh"])
def test_a_part_that_a_checkpoint_forgot_would_be_noticed(pair, killed, what):
    """The comparisons above can fail: something is 0 where it was saved, and the run comes out otherwise."""
    real = state_io.restore

    def forgetful(runner, buffer, loaded):
        lost = {name: np.zeros_like(x) for name, x in loaded.arrays.items() if name.startswith(f"state.{what}")}
        unsigned = loaded.manifest.model_copy(update={"about": loaded.about.model_copy(update={"content": ""})})
        real(runner, buffer, loaded._replace(arrays=loaded.arrays | lost, manifest=unsigned))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpointing, "restore", forgetful)
        if what == "fresh":
            patch.setattr(checkpointing, "LoopPosition", lambda fresh=False, **own: LoopPosition(not fresh, **own))
        ran(f"resume={killed}")
    same_state = record(killed)["state_digest"] == record(pair[0])["state_digest"]
    assert not same_state or rows(killed, "metrics") != rows(pair[0], "metrics")
    assert record(killed)["nondeterminism"] is not None


def test_where_all_are_damaged_one_line_says_so_and_nothing_is_touched(killed, capsys):
    for name in checkpoint.names(killed):
        (killed / "checkpoints" / name / "manifest.json").write_text("{}")
    before = content(killed)
    assert main([f"resume={killed}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "checkpoints are damaged, nothing was changed: 000000000072: manifest.json is damaged" in line
    assert content(killed) == before


def test_before_the_first_checkpoint_a_run_goes_on_from_its_beginning(pair, killed):
    shutil.rmtree(killed / "checkpoints")
    ran(f"resume={killed}")
    assert record(killed)["resumes"][0]["checkpoint"] is None
    assert record(killed)["state_digest"] == record(pair[0])["state_digest"]
    assert rows(killed, "metrics") == rows(pair[0], "metrics")


def test_how_often_it_writes_evaluates_and_saves_changes_nothing_that_a_run_learns(pair, killed):
    ran(f"resume={killed}", "logger.every_steps=40", "eval=final", "checkpoint.every_steps=7", "logger.console=plain")
    assert record(killed)["state_digest"] == record(pair[0])["state_digest"]
    assert [row["step"] for row in read_rows(killed / "metrics.jsonl")][-2:] == [80, 120]


def test_rows_that_come_out_otherwise_are_reported(tmp_path, caplog):
    """Also after a second cut: what the first took off, and was not written again, is still compared."""
    row = {"step": 8, "time": 1.0, "loss/critic": 0.5, "train/return": math.nan}
    with RunDirectory.create(tmp_path, "ddpg", "pendulum", 0) as run:
        logs = FileLogger(run)
        for step in (8, 16, 24):
            logs.metrics(row | {"step": step})
        logs.evaluation({"step": 8, "returns": [1.0, 2.0], "lengths": [5, 5]})
        logs.close()
        first = len((run.path / "metrics.jsonl").read_text().splitlines(keepends=True)[0])
        rollback.cut(run.path, {"metrics": 2 * first + 1, "evaluations": 0})
        cut = rollback.cut(run.path, {"metrics": first})
        assert [each["step"] for each in cut["metrics"]] == [24, 16] and len(cut["evaluations"]) == 1
        logs = FileLogger(run, 5.0, cut)
        logs.evaluation({"step": 8, "returns": [1.0, 2.0, 3.0], "lengths": [5, 5, 5]})
        logs.metrics(row | {"step": 16, "time": 7.0})
        assert run.recorded()["nondeterminism"] is None
        logs.metrics(row | {"step": 24, "loss/critic": 0.75})
        logs.close()
        found = {"file": "metrics.jsonl", "step": 24, "name": "loss/critic", "before": 0.5, "after": 0.75}
        assert run.recorded()["nondeterminism"] == found
        assert "not the same run again: loss/critic at step 24 was 0.5 before" in caplog.text
        with pytest.raises(RunError, match="metrics.jsonl has .* bytes, but had 9999"):
            rollback.cut(run.path, {"metrics": 9999})


def test_a_finished_run_trains_on_with_more_steps_and_other_rows(pair, tmp_path):
    run = shutil.copytree(pair[0], tmp_path / "2026-11-21" / pair[0].name)
    ran(f"resume={run}", "total_steps=136", "logger.every_steps=8", "logger=quiet", "eval.episodes=1", "seed=0")
    ended = record(run)
    assert ended["total_steps"] == 136 and ended["status"] == "finished"
    changed = ended["resumes"][0]["changed"]
    assert changed["total_steps"] == [120, 136] and changed["eval.episodes"] == [2, 1]
    kept = resume.read_config(run / "config.yaml")  # for the next time
    assert (kept["total_steps"], kept["eval"]["episodes"], kept["logger"]["console"]) == (136, 1, "none")
    assert [row["step"] for row in read_rows(run / "metrics.jsonl")][-3:] == [120, 128, 136]
    assert ended["training_time_s"] > record(pair[0])["training_time_s"]


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["algo.gamma=0.9"], "algo.gamma=0.9: cannot be changed while a run goes on, where it is 0.99"),
        (["algo=td3"], "algo=td3: cannot be changed while a run goes on, where it is ddpg"),
        (["seed=4"], "seed=4: cannot be changed"),
        (["total_steps=50"], "total_steps=50: must be at least 72, which the run has behind it"),
        (["total_stps=400"], "total_stps=400: cannot be changed"),
        (["logger.evry_steps=4"], "logger.evry_steps=4: LoggerSettings has no such setting; did you mean"),
        (["logger=loud"], "logger=loud: there is no such option"),
        (["logger.every_steps=0"], "logger.every_steps=0: must be a whole number above 0"),
        (["~logger"], "must be KEY=VALUE"),
        (["total_steps=200,300"], "total_steps=200,300: several values need -m"),
        (["packages=[a.b]"], "packages=[a.b]: must be a list of package names"),
    ],
    ids=lambda each: each[0] if isinstance(each, list) else "",
)
def test_what_may_not_change_is_refused_in_one_line(killed, capsys, overrides, said):
    before = content(killed)
    assert main([f"resume={killed}", *overrides]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and len(line) < 400
    assert content(killed) == before


def test_places_that_are_no_run_are_refused(pair, tmp_path, capsys):
    said = {
        f"resume={tmp_path}/nothing": "must be a run directory, one with a run.json.",
        f"resume={pair[0].parents[1]}": f"the newest below it is {pair[0]}",
        f"resume={pair[0]}": "has finished at step 120; train on with total_steps=MORE.",
        f"init_from={tmp_path}/nothing": "must be a run directory",
    }
    for override, words in said.items():
        assert main([override]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line


def test_a_run_that_somebody_trains_is_left_alone(killed, capsys):
    with RunDirectory(killed) as other:
        other.lock()
        before = content(killed)
        assert main([f"resume={killed}"]) == 1
        assert "is being trained by process" in capsys.readouterr().err
        assert {**content(killed), killed / "log.txt": b""} == {**before, killed / "log.txt": b""}


HOSTILE = {
    "target": ("_target_: rlresearch.optim.Adam", "_target_: subprocess.Popen", "must be inside rlresearch"),
    "code": ("_target_: rlresearch.noise.Gaussian", "_target_: os.system", "must be inside rlresearch"),
    "environment": ("id: Pendulum-v1", "id: evil:Pendulum-v1", "its module must be inside rlresearch"),
    "tag": ("seed: 0", "seed: !!python/object/apply:os.system [true]", "could not determine a constructor"),
    "alias": ("seed: 0", "seed: &a 0\nthreads: *a", "it refers to a part of itself"),
    "secret": ("device: cpu", "device: ${oc.env:HOME}", "device=${oc.env:HOME}: must be one of auto"),
    "no mapping": (None, "- 1", "it holds no settings"),
    "deep": (None, "[" * 1_500, "cannot be read"),
    "edited": ("gamma: 0.99", "gamma: 0.98", "is not the one that its checkpoints were made with"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_runs_that_a_stored_configuration_names(killed, capsys, name):
    old, new, said = HOSTILE[name]
    path = killed / "config.yaml"
    text = path.read_text()
    assert old is None or old in text
    path.write_text(new if old is None else text.replace(old, new))
    before = content(killed)
    assert main([f"resume={killed}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and content(killed) == before


def test_a_population_cannot_lead_to_other_directories(killed, capsys):
    RunDirectory(killed).record(population={"index": 0, "members": ["../../elsewhere"]})
    assert main([f"resume={killed}"]) == 2
    assert "its run.json does not say" in capsys.readouterr().err


# What was learned, elsewhere.


def test_somebody_elses_run_is_evaluated_and_exported_without_a_file_in_its_folder(pair, tmp_path, capsys):
    with read_only(pair[0].parent):
        assert evaluate([str(pair[0]), "--episodes", "3", "--json"]) == 0
        assert export([str(pair[0]), str(tmp_path / "policy")]) == 0
        capsys.readouterr()
        ran(f"resume={pair[0]}", "total_steps=200", code=2)
    told = f"'{pair[0]}' cannot be written (Permission denied); copy the run to a folder of yours"
    assert told in capsys.readouterr().err


def test_a_stored_policy_is_evaluated_as_it_was_in_training(pair, capsys):
    assert evaluate([str(pair[0]), "--episodes", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (*_, last) = read_rows(pair[0] / "evaluations.jsonl")
    assert (found["step"], found["returns"], found["lengths"]) == (120, last["returns"], last["lengths"])
    assert evaluate([str(pair[0]), "--checkpoint", "17"]) == 2
    assert "there are last, best, and by steps: 120, " in capsys.readouterr().err


def test_an_exported_policy_acts_in_the_environments_own_units(pair, tmp_path, capsys):
    assert export([str(pair[0]), str(tmp_path / "policy")]) == 0
    copy = tf.saved_model.load(str(tmp_path / "policy")).signatures["serving_default"]
    obs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    loaded = checkpoint.load_named(pair[0], "last", "")
    plan = make_plan("ddpg", "env=pendulum")
    state = state_io.learned(plan.trainer, loaded, None)
    np.testing.assert_allclose(copy(obs=obs)["action"], 2.0 * plan.trainer.policy(state, obs), rtol=1e-5)
    assert json.loads((tmp_path / "policy" / "policy.json").read_text())["step"] == 120
    assert export([str(pair[0]), str(tmp_path / "policy")]) == 2
    assert "exists already" in capsys.readouterr().err and not list(tmp_path.glob(".tmp-*"))


def small_runner(seed=0, *overrides):
    plan = make_plan("ddpg", *overrides)
    return plan, plan.runner.start(plan.trainer, plan.task, seed)


def test_a_new_run_begins_with_what_another_has_learned(pair):
    loaded = checkpoint.load_named(pair[0], "last", "")
    _, runner = small_runner(seed=5)
    before = runner.state()
    begin_from(runner, loaded, None)
    state = runner.state()
    for name, leaf in (("actor", state.algo.actor), ("target_critic", state.algo.target_critic)):
        stored = [loaded.arrays[f"state.algo.{name}.trainable.{i}"] for i in range(len(leaf.trainable))]
        assert same_bits(leaf.trainable, stored)
    assert same_bits(state.algo.critic_optimizer, before.algo.critic_optimizer)
    assert same_bits((state.key, state.buffer, state.env), (before.key, before.buffer, before.env))
    _, other = small_runner(0, "env.physics.g=9.0")
    with pytest.raises(ConfigError, match="init_from: it has nothing for algo.actor"):
        begin_from(other, loaded._replace(arrays={}), None)


# Runners, saved and restored.


class Logs:
    def sizes(self):
        return {"metrics": 0}

    def sync(self):
        pass


def test_what_a_checkpoint_lacks_is_named(pair):
    loaded, _ = checkpoint.newest(pair[0])
    plan = make_plan("ddpg", "env.max_episode_steps=13", "buffer.capacity=40")
    runner = plan.runner.start(plan.trainer, plan.task, 5)
    restore(runner, plan.trainer.buffer, loaded)
    assert state_digest(runner) == record(pair[0])["state_digest"]
    for name in loaded.arrays:
        others = {key: each for key, each in loaded.arrays.items() if key != name}
        with pytest.raises(RunError, match=f"holds nothing for '{name}'"):
            restore(runner, plan.trainer.buffer, loaded._replace(arrays=others))
    larger, other = small_runner(0, "buffer.capacity=50")
    with pytest.raises(RunError, match="cannot be restored: 'state.buffer' holds 40 rows, unlike"):
        restore(other, larger.trainer.buffer, loaded)


def test_what_comes_back_otherwise_than_it_was_saved_is_refused(pair, monkeypatch):
    """A checkpoint has a digest of its content: a runner that forgets a part, or other rows, are noticed."""
    loaded, _ = checkpoint.newest(pair[0])
    plan, runner = small_runner(0, "env.max_episode_steps=13", "buffer.capacity=40")
    buffer, whole = plan.trainer.buffer, runner.restore
    monkeypatch.setattr(runner, "restore", lambda at, state, extra: whole(at, state._replace(key=state.key + 1), extra))
    with pytest.raises(RunError, match=r"was restored, but 'state\.key' is not what was saved"):
        restore(runner, buffer, loaded)
    monkeypatch.undo()
    about = loaded.about.model_copy(update={"content": "0" * len(loaded.about.content)})
    with pytest.raises(RunError, match="holds other rows than the replay held"):
        restore(runner, buffer, loaded._replace(manifest=loaded.manifest.model_copy(update={"about": about})))
    restore(runner, buffer, loaded)


def test_learning_that_went_astray_ends_the_run_and_reaches_no_checkpoint(tmp_path, capsys):
    ran(*REPLAY, *SMALL, "optimizer.lr=1e30", "eval=final", "eval.final_episodes=1", f"runs_dir={tmp_path}", code=1)
    (run,) = runs_in(tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds NaN by step 24" in line and "algo.actor" in line and str(run) in line
    assert record(run)["status"] == "failed" and [row["step"] for row in read_rows(run / "metrics.jsonl")] == [16]
    found, damaged = checkpoint.newest(run)
    assert not damaged and (found is None or all(np.isfinite(each).all() for each in found.arrays.values()))


class Moody(gym.Env):
    """Goes where nobody knows: its steps depend on how many were ever taken."""

    observation_space = gym.spaces.Box(-100, 100, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    taken = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        Moody.taken, self.steps = Moody.taken + 1, self.steps + 1
        return np.float32([Moody.taken % 97]), 0.0, False, self.steps == 10, {}


gym.register("Moody-v0", Moody, max_episode_steps=1_000)


def host_runner(name, *overrides):
    """(plan, runner) of random actions in Gymnasium, which are soon compiled."""
    plan = make_plan("ddpg", "env=gym", f"env.id={name}", *overrides)
    trainer = TrainingStep(RandomActions(plan.task.spec), Uniform(20))
    return plan, HostRunner(trainer, plan.task, 3)


def test_an_environment_that_does_not_replay_is_named_and_waited_for(tmp_path, caplog):
    with without_xla():
        plan, runner = host_runner("Moody-v0")
        facts = CheckpointFacts(plan.trainer.buffer, [Logs()])
        saver = Checkpointer(runner, plan.task, plan.checkpoint, tmp_path, facts)
        loop = TrainingLoop(runner, plan.task, LoopSettings(100, evaluation=plan.eval), [saver])
        loop.advance(4)
        saver.at_milestone(loop.position, Milestone(4, False, False, True), [])
        assert not runner.resumable_here and checkpoint.names(tmp_path) == []
        loop.advance(25)
        saver.wait()
        assert [int(name) for name in checkpoint.names(tmp_path)] == [10]
        assert "environment 'Moody-v0' does not replay: checkpoints wait" in caplog.text
        saver.on_end(loop.position)
        saver.close()
        assert checkpoint.newest(tmp_path)[0].about.step == 10  # the last state is there, but not to go on from
        last = checkpoint.load_named(tmp_path, "last", "")
        assert last.about.step == 25
        with pytest.raises(RunError, match="environment 'Moody-v0' does not replay: the 5 actions of episode 2"):
            restore(runner, plan.trainer.buffer, last)
    runner.close()


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_environments_come_back_into_the_middle_of_their_episodes(vectorization, tmp_path):
    """Two copies in their second episode, brought back in new environments: they go on the same."""
    overrides = ["env.num_envs=2", f"env.vectorization={vectorization}", "env.max_episode_steps=7"]
    with without_xla():
        plan, one = host_runner("MountainCarContinuous-v0", *overrides)
        one.advance(10, True)
        assert one.resumable_here
        saver = Checkpointer(one, plan.task, plan.checkpoint, tmp_path, CheckpointFacts(plan.trainer.buffer, [Logs()]))
        saver.on_end(LoopPosition())
        saver.close()
        _, two = host_runner("MountainCarContinuous-v0", *overrides)
        restore(two, plan.trainer.buffer, checkpoint.newest(tmp_path)[0])
        for runner in (one, two):
            runner.advance(9, False)
            assert leaves(runner.extra_state())
        assert state_digest(one) == state_digest(two) and same_bits(one.extra_state(), two.extra_state())
        one.close()
        two.close()


def test_what_is_typed_to_go_on_names_the_folder_of_own_components(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resume.resume_command(tmp_path / "runs/a", None) == "python -m rlresearch resume=runs/a"
    told = resume.resume_command(Path("/elsewhere/a b"), str(tmp_path / "own"), "retry=failed")
    assert told == "python -m rlresearch --config-dir=own 'resume=\"/elsewhere/a b\"' retry=failed"


class Reservoir(Uniform):
    """Keeps a random sample of all that came: rows change after they were added."""

    def add(self, state, rows):
        place = tf.cast(state.added * 7 % self.capacity, tf.int32)[None, None]
        laid = {dtype: part[:1] for dtype, part in pack(rows).items()}
        columns = {name: tf.tensor_scatter_nd_update(c, place, laid[name]) for name, c in state.columns.items()}
        return state._replace(columns=columns, added=state.added + 1)


class OwnReservoir(Reservoir):
    """The same, and honest: it has no rows that only grow."""

    def append_only(self, state):
        return {}


@pytest.mark.parametrize("buffer", [Reservoir(10), OwnReservoir(10)], ids=["wrong", "right"])
def test_rows_that_change_in_place_are_noticed_and_saved_whole(buffer, tmp_path, caplog):
    """A reservoir made of the shipped ring: resumed, it holds what it held."""
    plan = make_plan("ddpg", "env.max_episode_steps=13")
    trainer = TrainingStep(RandomActions(plan.task.spec), buffer)
    with without_xla():
        one, two = (DeviceRunner(trainer, plan.task, 3) for _ in range(2))
        saver = Checkpointer(one, plan.task, plan.checkpoint, tmp_path, CheckpointFacts(buffer, [Logs()]))
        for iterations in (15, 4, 4):
            one.advance(iterations, False)
            saver.on_end(LoopPosition())
        saver.close()
        restore(two, buffer, checkpoint.newest(tmp_path)[0])
        assert state_digest(one) == state_digest(two)
    assert ("Reservoir changes rows after they were added" in caplog.text) == (type(buffer) is Reservoir)
