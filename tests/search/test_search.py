"""A search proposes, prunes, is killed and goes on, alone or beside other controllers. No run is trained here: a
launcher of a few lines scores the trials.
"""

import copy
import importlib.util
import json
import math
import multiprocessing
import random
import sys
import threading
import time
from functools import cache
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from rlresearch.cli.main import main
from rlresearch.config import compose, overrides
from rlresearch.envs.pendulum import Pendulum
from rlresearch.envs.task import Task
from rlresearch.errors import ConfigError, RunError
from rlresearch.evaluation.evaluator import Evaluation
from rlresearch.storage import redaction
from rlresearch.sweeps.search import driver, report
from rlresearch.sweeps.search import settings as search
from rlresearch.sweeps.search.space import Choice, Number
from rlresearch.training import optuna_trial
from rlresearch.training.callbacks import Callback, EvaluationResult, Members
from rlresearch.training.experiment import plan
from rlresearch.training.loop import LoopSettings, TrainingLoop
from rlresearch.training.optuna_trial import Trial, TrialMembers, TrialReporter
from rlresearch.training.pruner import Pruner
from rlresearch.training.reporting import LoggerCallback
from rlresearch.training.settings import EvalSettings

LR = "optimizer.lr=tag(log,interval(1e-5,1e-1))"
SHORT = ["total_steps=400", "eval.every_steps=100", "algo.learning_starts=50", "algo.batch_size=16"]


class Launcher:
    """Scores jobs in place of training them: best at a learning rate of 1e-3. Dies before the jobs in `dies_at`."""

    def __init__(self, score=None, dies_at=(), fails=lambda values: False):
        self.jobs, self.steps, self._dies_at, self._fails = [], 0, set(dies_at), fails
        self._score = score or (lambda values, step: -abs(math.log10(values["optimizer.lr"]) + 3) * 400 / step)

    def __call__(self, jobs, first):
        return [self._run(job) for job in jobs]

    def _run(self, job):
        if len(self.jobs) in self._dies_at:
            self._dies_at.remove(len(self.jobs))
            raise KeyboardInterrupt
        values = {each.key_or_group: each.value() for each in OverridesParser.create().parse_overrides(list(job))}
        told = Trial(**{name: values.pop(f"trial.{name}") for name in ("storage", "study", "number", "part")})
        self.jobs.append((told.number, told.part, values))
        if self._fails(values):
            return SimpleNamespace(return_value=property(lambda self: 1 / 0))
        reporter = TrialReporter(TrialMembers(told, (0,)))
        for step in range(100, 401, 100):
            self.steps += 100
            goes_on = reporter.should_continue(step, [self._score(values, step)])
            if not goes_on and step < 400:
                break
        summary = {"status": "finished" if step == 400 else "pruned", "total_steps": step, "wall_time_s": 1.0 + step}
        reporter.record([summary], [{"path": f"run of {told.number}", "row": {"loss/critic": 0.5}}])
        return SimpleNamespace(return_value=0.0)


DEFAULTS = yaml.safe_load((compose.CONFIG_FOLDER / "hydra/sweeper/optuna.yaml").read_text())


def asked(*words):
    """What `overrides.parse_search` makes of a command line, without composing what stands beside it."""
    settings, fixed, swept = copy.deepcopy(DEFAULTS), [], []
    for each in OverridesParser.create().parse_overrides(list(words)):
        name = each.key_or_group.removeprefix("hydra.sweeper.")
        if name != each.key_or_group:
            settings[name] = each.value()
        else:
            (swept.append(each) if each.is_sweep_override() else fixed.append(each.input_line))
    return overrides.SearchSpec(settings, fixed, swept)


@cache
def plan_of(words):
    return plan(compose.compose(words).config)


@pytest.fixture(autouse=True)
def composed_once(monkeypatch, request):
    """Composing takes longer than all else here."""
    monkeypatch.setattr(search, "compose", lambda words, _: SimpleNamespace(config=tuple(words)))
    monkeypatch.setattr(
        search, "plan", lambda words, _=None: plan_of(tuple(w for w in words if not w.startswith("optimizer.lr")))
    )
    if "capsys" not in request.fixturenames:  # drawing charts loads plotly and matplotlib
        monkeypatch.setattr(report, "study_page", lambda *_: None)


def searched(tmp_path, launcher, *words, name="one"):
    (tmp_path / name).mkdir(exist_ok=True)
    done = driver.search(search.prepare(asked(*SHORT, *words)), launcher, tmp_path / name)
    return done, [json.loads(line) for line in (done.folder / "trials.jsonl").read_text().splitlines()]


def refused(*words):
    with pytest.raises(ConfigError) as caught:
        search.prepare(asked(*SHORT, *words))
    return str(caught.value)


def test_tpe_finds_a_better_learning_rate_than_its_first_random_ones(tmp_path, capsys):
    done, rows = searched(tmp_path, Launcher(), LR, "hydra.sweeper.n_trials=30")
    assert done.counts == {"complete": 30} and len(rows) == 30
    scores = [each["values"]["return"] for each in rows]
    assert sorted(scores[20:])[5] > sorted(scores[:10])[5]  # their medians
    (best,) = done.best
    assert 3e-4 < best.params["optimizer.lr"] < 3e-3
    command = f"optimizer.lr={best.params['optimizer.lr']!r}"
    assert command in capsys.readouterr().out
    page = (done.folder / "study.html").read_text()
    assert "plotly.js" in page and "What mattered" in page and 'src="http' not in page


SAMPLERS = {
    "tpe": "hydra.sweeper.sampler_options={n_startup_trials:3}",
    "random": "hydra.sweeper.sampler=random",
    "qmc": "hydra.sweeper.sampler=qmc",
    "cmaes": "hydra.sweeper.sampler=cmaes",
    "grid": "hydra.sweeper.sampler=grid",
    "gp": "hydra.sweeper.sampler=gp hydra.sweeper.sampler_options={n_startup_trials:3}",
}
REST = [pytest.param(name, marks=pytest.mark.slow) for name in ("random", "cmaes", "grid")]
NEEDS_TORCH = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
REST += [pytest.param("gp", marks=[pytest.mark.slow, NEEDS_TORCH])]


@pytest.mark.parametrize("sampler", ["tpe", "qmc", *REST])
def test_a_search_that_was_killed_proposes_what_it_would_have_proposed(sampler, tmp_path):
    space = (
        ["optimizer.lr=range(0.001,0.004,0.001)", "algo.gamma=0.9,0.99,0.999"]
        if sampler == "grid"
        else [LR, "algo.gamma=interval(0.9,0.99)", "noise=gaussian,ou"]
    )
    words = [*space, *SAMPLERS[sampler].split()]
    words += ["hydra.sweeper.n_trials=9", "hydra.sweeper.n_jobs=3", "hydra.sweeper.seed=5"]
    whole, killed = Launcher(), Launcher(dies_at=[0, 1, 5])
    _, undisturbed = searched(tmp_path, whole, *words, name="whole")
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            searched(tmp_path, killed, *words, name="killed")
    _, resumed = searched(tmp_path, killed, *words, name="killed")
    assert [each["params"] for each in resumed] == [each["params"] for each in undisturbed]
    assert len({json.dumps(each["params"]) for each in resumed}) == 9
    finished = [number for number, _, _ in killed.jobs]
    assert sorted(finished) == list(range(9)), "each trial was trained to its end once"


def test_a_search_that_was_killed_between_two_proposals_completes_its_batch(tmp_path, monkeypatch):
    words = [LR, "hydra.sweeper.sampler_options={n_startup_trials:1}"]
    words += ["hydra.sweeper.n_trials=8", "hydra.sweeper.n_jobs=4"]
    _, undisturbed = searched(tmp_path, Launcher(), *words, name="whole")
    asks, real = iter(range(99)), optuna.Study.ask

    def ask(study, *args):
        if next(asks) == 6:
            raise KeyboardInterrupt
        return real(study, *args)

    monkeypatch.setattr(optuna.Study, "ask", ask)
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path, Launcher(), *words, name="killed")
    launcher, sizes = Launcher(), []

    def launch(jobs, first):
        sizes.append(len(jobs))
        return launcher(jobs, first)

    _, resumed = searched(tmp_path, launch, *words, name="killed")
    assert [each["params"] for each in resumed] == [each["params"] for each in undisturbed]
    assert [number for number, _, _ in launcher.jobs] == [4, 5, 6, 7] and sizes == [4]


def test_another_seed_proposes_something_else(tmp_path):
    def params(seed):
        words = [LR, "hydra.sweeper.sampler=random", "hydra.sweeper.n_trials=2", f"hydra.sweeper.seed={seed}"]
        return [each["params"] for each in searched(tmp_path, Launcher(), *words, name=f"seed {seed}")[1]]

    assert params(1) != params(2)


OTHER = [pytest.param(name, marks=pytest.mark.slow) for name in ("percentile", "hyperband")]


@pytest.mark.parametrize("pruner", ["median", "successive_halving", *OTHER])
def test_a_pruner_saves_steps_and_keeps_the_best(pruner, tmp_path):
    options = {"percentile": "{percentile:25.0,n_startup_trials:3}", "median": "{n_startup_trials:3}"}.get(
        pruner, "null"
    )
    words = [LR, "hydra.sweeper.sampler=random", "hydra.sweeper.n_trials=16"]
    whole, pruned = Launcher(), Launcher()
    best = searched(tmp_path, whole, *words, name="whole")[0].best
    with_it = [*words, f"hydra.sweeper.pruner={pruner}", f"hydra.sweeper.pruner_options={options}"]
    done, rows = searched(tmp_path, pruned, *with_it, name="pruned")
    assert done.best[0].params == best[0].params
    assert pruned.steps == sum(each["steps"] for each in rows) < 0.8 * whole.steps
    assert {each["state"] for each in rows} == {"complete", "pruned"}
    stopped = next(each for each in rows if each["state"] == "pruned")
    assert max(map(int, stopped["evaluations"])) == stopped["steps"] < 400


def test_seeds_of_a_trial_run_one_after_the_other_and_bad_trials_get_no_second(tmp_path):
    words = [LR, "seed=7", "hydra.sweeper.seeds_per_trial=3", "hydra.sweeper.n_trials=8", "hydra.sweeper.n_jobs=4"]
    launcher = Launcher(lambda values, step: -abs(math.log10(values["optimizer.lr"]) + 3) - (values["seed"] - 8) / 10)
    pruner = ["hydra.sweeper.pruner=median", "hydra.sweeper.pruner_options={n_startup_trials:4}"]
    done, rows = searched(tmp_path, launcher, *words, *pruner)
    order = [(number, part) for number, part, _ in launcher.jobs[:12]]
    assert order == [(number, part) for part in range(3) for number in range(4)], "a batch begins with all first seeds"
    assert {values["seed"] for _, part, values in launcher.jobs if part == 2} == {9}
    complete = next(each for each in rows if each["state"] == "complete")
    of_one = -abs(math.log10(complete["params"]["optimizer.lr"]) + 3)
    assert complete["values"]["return"] == pytest.approx(of_one)  # the mean over seeds 7, 8 and 9
    assert complete["steps"] == 1200 and max(map(int, complete["evaluations"])) == 1200
    assert done.counts["pruned"] > 0 and min(each["steps"] for each in rows) < 800


def test_scores_in_several_environments_are_normalised(tmp_path):
    words = ["algo=ppo", "algo.gamma=0.9,0.99", "hydra.sweeper.environments=[pendulum,cartpole]"]
    scores = {"pendulum": -152.0 - 552.0, "cartpole": 500.0}  # half way, and the target
    launcher = Launcher(lambda values, step: scores[values["env"]])
    done = driver.search(search.prepare(asked(*words, "hydra.sweeper.sampler=grid")), launcher, tmp_path)
    assert [values["env"] for _, _, values in launcher.jobs[:4]] == ["pendulum", "cartpole"] * 2
    assert done.best[0].values == [pytest.approx(0.75)]


def test_several_objectives_keep_all_that_nothing_beats(tmp_path):
    words = [LR, "hydra.sweeper.objective=[return,wall_time,loss/critic]", "hydra.sweeper.n_trials=5"]
    done, rows = searched(tmp_path, Launcher(), *words, "hydra.sweeper.direction=[maximize,minimize,minimize]")
    assert len(done.best) == 1 and rows[0]["values"] == {
        **{"return": pytest.approx(rows[0]["values"]["return"])},
        "wall_time": 401.0,
        "loss/critic": 0.5,
    }


def test_trials_that_fail_are_named_and_the_others_go_on(tmp_path):
    launcher = Launcher(fails=lambda values: values["optimizer.lr"] > 1e-2)
    with pytest.raises(RunError, match=r"of 12 trials failed; trial \d+: its run ended without a score"):
        searched(tmp_path, launcher, LR, "hydra.sweeper.n_trials=12", "hydra.sweeper.sampler=random")
    rows = [json.loads(line) for line in (tmp_path / "one/trials.jsonl").read_text().splitlines()]
    assert len(rows) == 12 and {each["state"] for each in rows} == {"complete", "failed"}
    with pytest.raises(RunError, match="of a batch failed"):
        searched(tmp_path, launcher, LR, "hydra.sweeper.sampler=random", "hydra.sweeper.max_failure_rate=0", name="two")


def test_a_journal_has_one_controller_and_a_torn_line_is_taken_off(tmp_path):
    searched(tmp_path, Launcher(), LR, "hydra.sweeper.n_trials=2")
    journal = tmp_path / "one/study.journal"
    with open(journal, "ab") as file:
        file.write(b'{"op_code": 4, "wor')

    def second(jobs, first):
        with pytest.raises(ConfigError, match="another process is at this search"):
            searched(tmp_path, Launcher(), LR, "hydra.sweeper.n_trials=4")
        return Launcher()(jobs, first)

    done, _ = searched(tmp_path, second, LR, "hydra.sweeper.n_trials=3")
    assert done.counts == {"complete": 3}


def test_a_search_goes_on_only_as_what_it_was(tmp_path):
    searched(tmp_path, Launcher(), LR, "hydra.sweeper.n_trials=2")
    with pytest.raises(ConfigError, match="was begun with sampler tpe, not random"):
        searched(tmp_path, Launcher(), LR, "hydra.sweeper.sampler=random")
    with pytest.raises(ConfigError, match="was begun with space optimizer.lr {low:1e-05,high:0.1"):
        searched(tmp_path, Launcher(), "optimizer.lr=interval(0.1,0.2)")
    with pytest.raises(ConfigError, match="was begun with nothing where algo.tau=0.1 stands; for that, begin another"):
        searched(tmp_path, Launcher(), LR, "algo.tau=0.1")


def shared(tmp_path, *words):
    return [LR, f"hydra.sweeper.storage='sqlite:///{tmp_path}/study.db'", "hydra.sweeper.study_name=both", *words]


def test_two_controllers_share_a_study_and_its_budget(tmp_path):
    words = shared(tmp_path, "hydra.sweeper.n_trials=7", "hydra.sweeper.n_jobs=2", "hydra.sweeper.sampler=random")
    one, other = Launcher(), Launcher()
    turns = threading.Barrier(2, timeout=60)

    def wait(launcher):
        def launch(jobs, first):
            if len(launcher.jobs) < 2:
                turns.wait()  # both have asked before either tells
            return launcher(jobs, first)

        return launch

    prepared = search.prepare(asked(*SHORT, *words))
    ends = [
        threading.Thread(target=_control, args=(prepared, tmp_path / name, wait(launcher)))
        for name, launcher in (("a", one), ("b", other))
    ]
    with driver.study_of(prepared, tmp_path):  # SQLite's tables are made by one
        pass
    for each in ends:
        each.start()
    for each in ends:
        each.join()
    numbers = [number for launcher in (one, other) for number, _, _ in launcher.jobs]
    values = {job[2]["optimizer.lr"] for launcher in (one, other) for job in launcher.jobs}
    assert len(numbers) == len(set(numbers)) == len(values) == 7, "no trial twice, none too many"
    assert one.jobs and other.jobs


def test_who_asks_for_one_more_than_the_budget_gives_it_back(tmp_path, monkeypatch):
    prepared = search.prepare(asked(*SHORT, *shared(tmp_path)))
    with driver.study_of(prepared, tmp_path / "a") as one, driver.study_of(prepared, tmp_path / "b") as other:
        monkeypatch.setattr(other, "counted", lambda: 0)  # it looked a moment before the first one asked
        assert len(one.batch(1, 1)) == 1 and other.batch(1, 1) == []
        assert one.counts() == {"running": 1} and len(one.optuna.trials) == 2


def _control(prepared, folder, launch):
    folder.mkdir()
    with driver.study_of(prepared, folder) as study:
        driver.Controller(prepared, study, launch).run(folder)


def test_trials_of_a_dead_controller_are_trained_by_another(tmp_path):
    words = shared(tmp_path, "hydra.sweeper.n_trials=3", "hydra.sweeper.heartbeat_s=1")
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path, Launcher(dies_at=[1]), *words, name="dead")
    url = f"sqlite:///{tmp_path}/study.db"
    study = optuna.load_study(study_name="both", storage=url)
    (left,) = [each for each in study.trials if each.state.name == "RUNNING"]
    launcher, old = Launcher(), "UPDATE trial_heartbeats SET heartbeat = '2026-01-01 00:00:00'"
    from sqlalchemy import create_engine, text

    with create_engine(url).begin() as database:
        database.execute(text(old))
    done, _ = searched(tmp_path, launcher, *words, name="other")
    assert done.counts == {"complete": 3}
    assert left.params["optimizer.lr"] in {values["optimizer.lr"] for _, _, values in launcher.jobs}
    assert len(launcher.jobs) == 2


def test_a_trial_that_goes_on_keeps_its_scores_and_what_it_was_told(tmp_path, monkeypatch):
    words = [LR, "hydra.sweeper.pruner=median", "hydra.sweeper.objective=auc", "hydra.sweeper.n_trials=1"]
    answers, scores = iter([False, False, True]), {100: -3.0, 200: -2.0, 300: -1.0}
    monkeypatch.setattr(optuna.pruners.MedianPruner, "prune", lambda *_: next(answers))
    with driver.study_of(search.prepare(asked(*SHORT, *words)), tmp_path) as study:
        (trial_,) = study.batch(1, 1)
        own = TrialMembers(Trial(study.storage, study.name, trial_.number), (0,))

        def begun():
            members = Members(1)
            return Pruner([own], members, 400), members

        def told(pair, steps):
            pruner, members = pair
            for step in steps:
                evaluations = [Evaluation([scores[step]], [1])]
                pruner.on_evaluation(EvaluationResult(step, evaluations, [True], [], False))
            return members.ended

        assert told(begun(), [100, 200, 300]) == [300]
        # The pruner, which has no more answers, is not asked again: not from the beginning, not from a checkpoint.
        assert told(begun(), [100, 200]) == [None]
        assert told(begun(), [100, 200, 300]) == [300]
        later, at_end = begun(), begun()
        later[0].resume(100, [[-3.0]])
        assert later[1].ended == [None] and told(later, [200, 300]) == [300]
        at_end[0].resume(300, [[-3.0, -2.0, -1.0]])
        assert at_end[1].ended == [300]
        for pruner, _ in (later, at_end):
            pruner.record([{"status": "pruned", "total_steps": 300}], [{"path": "x", "row": None}])
            assert study.record(trial_.number, 0)["values"] == {"auc": -2.0}


def test_a_study_out_of_reach_is_warned_of_and_the_run_goes_on(tmp_path, caplog):
    reporter = TrialReporter(TrialMembers(Trial(f"sqlite:///{tmp_path}/none/study.db", "x", 0), (0,)))
    assert reporter.should_continue(100, [-1.0])
    reporter.record([{"status": "finished", "total_steps": 1}], [{"path": "x"}])
    assert "cannot be reached" in caplog.text


def test_members_that_are_judged_to_stop_are_neither_logged_nor_trained_on():
    class Fake:
        iteration, members, learning_start_iteration = 0, (0, 1), 0

        def advance(self, iterations, fresh):
            self.iteration += iterations

        def set_active(self, active):
            self.going = list(active)

        def metrics(self):
            return [{"train/return": 0.0}] * 2

        def policy(self, obs):
            return np.zeros((*obs.shape[:2], 1), np.float32)

        def state(self):
            return None

    class Log:
        def __init__(self):
            self.told = []

        def metrics(self, row):
            self.told.append(("row", row["step"]))

        def evaluation(self, row):
            self.told.append(("evaluation", row["step"]))

    class Stopped(Callback):
        def on_evaluation(self, result):
            for member, step in ((0, 100), (1, 200)):
                if result.step == step:
                    members.end(member, step)

    logs, runner, members = [Log(), Log()], Fake(), Members(2)
    settings = LoopSettings(400, 50, EvalSettings(every_steps=100, episodes=1, final_episodes=1))
    task = Task("Pendulum-v1", physics=Pendulum(), max_episode_steps=5)
    heard = [LoggerCallback(members, logs), Stopped()]
    finals = TrainingLoop(runner, task, settings, heard, members).run()
    assert runner.iteration == 200 and runner.going == [False, True]
    assert [each.lengths for each in finals] == [[5], [5]]
    first = [("row", 50), ("row", 100), ("evaluation", 100)]
    assert logs[0].told == first
    assert logs[1].told == [*first, ("row", 150), ("row", 200), ("evaluation", 200)]


def test_ranges_are_read_as_hydra_writes_them():
    words = ["algo=ddpg,td3", "algo.batch_size=range(32,97,32)", "algo.tau=range(0.1,0.4,0.1)", LR]
    words += ["algo.gamma=interval(0.9,0.99)", "buffer.capacity=int(tag(log,interval(100,9000)))"]
    found = search.space(asked(*words).swept)
    assert found == {
        "algo": Choice(("ddpg", "td3")),
        "algo.batch_size": Number(32, 96, 32, whole=True),
        "algo.tau": Number(0.1, 0.3, 0.1),
        "optimizer.lr": Number(1e-5, 1e-1, log=True),
        "algo.gamma": Number(0.9, 0.99),
        "buffer.capacity": Number(100, 9000, log=True, whole=True),
    }


def test_ranges_may_stand_in_yaml_below_what_the_command_says():
    settings = {"params": {"optimizer.lr": "interval(0.1,0.2)", "algo.gamma": "0.9,0.95", "algo.tau": 0.01}}
    found = overrides.parse_search(settings, [LR])
    assert search.space(found.swept) == {
        "algo.gamma": Choice(("0.9", "0.95")),
        "optimizer.lr": Number(1e-5, 1e-1, log=True),
    }
    assert found.fixed == ["algo.tau=0.01"]


WRONG = {
    "optimizer.lr=interval(0.1,0.01)": "from a lower number to a higher",
    "optimizer.lr=interval(0.1,inf)": "from a lower number to a higher",
    "optimizer.lr=tag(log,interval(0,0.1))": "begins above 0",
    "optimizer.lr=tag(lg,interval(0.1,0.2))": "tag lg is unknown; allowed: log, int",
    "algo.batch_size=range(64,32)": "the range is empty",
    "seed=range(0,3)": "seeds_per_trial",
    "algo.gamma=0.9,0.9": "stands there twice",
    f"{LR} hydra.sweeper.sampler=tepe": "did you mean 'tpe'?",
    f"{LR} hydra.sweeper.sampler=grid": "a grid needs steps",
    f"{LR} hydra.sweeper.sampler_options={{n_start:3}}": "did you mean 'n_startup_trials'?",
    f"{LR} hydra.sweeper.pruner=medium": "did you mean 'median'?",
    f"{LR} hydra.sweeper.pruner=median hydra.sweeper.objective=wall_time": "return, best, auc",
    f"{LR} hydra.sweeper.pruner=median eval.every_steps=null": "needs evaluations while runs go on",
    f"{LR} hydra.sweeper.pruner=median hydra.sweeper.pruner_options={{n_startup_trials:-1}}": "MedianPruner",
    f"{LR} hydra.sweeper.objective=retrun": "no run reports it; did you mean 'return'?",
    f"{LR} hydra.sweeper.objective=[return,wall_time] hydra.sweeper.direction=maximize": "one for each objective",
    f"{LR} hydra.sweeper.direction=up": "minimize or maximize",
    f"{LR} hydra.sweeper.n_trials=0": "above 0",
    f"{LR} hydra.sweeper.environments=[pendulum,taxi]": "hydra.sweeper.references.taxi",
    f"{LR} hydra.sweeper.storage=postgresql://me:secret@host/x": "~/.pgpass",
    f"{LR} hydra.sweeper.storage=postgresql://host/x": "study_name is missing",
    "total_steps=400": "nothing to search over",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_bad_search_is_refused_in_one_line(words):
    assert WRONG[words] in refused(*words.split())


def test_a_missing_package_is_named_with_the_way_to_it(monkeypatch):
    real = search.importlib.util.find_spec
    missing = ["optuna", "torch"]
    monkeypatch.setattr(search.importlib.util, "find_spec", lambda name: None if name in missing else real(name))
    assert "pip install 'rlresearch[optuna]'" in refused(LR)
    missing.remove("optuna")
    assert "pip install torch" in refused(LR, "hydra.sweeper.sampler=gp")


def test_both_ends_are_checked_before_the_first_run_with_exit_code_2(capsys, tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    loaded = "tensorflow.python" in sys.modules
    assert main(["-m", "hydra/sweeper=optuna", "algo.gamma=interval(0.9,1.2)"]) == 2
    assert "algo.gamma=1.2: must be a number from 0 to 1" in capsys.readouterr().err
    assert main(["-m", "hydra/sweeper=optuna", "algo.gama=interval(0.9,0.99)"]) == 2
    assert "did you mean 'algo.gamma'?" in capsys.readouterr().err
    assert not list(tmp_path.iterdir()) and loaded == ("tensorflow.python" in sys.modules)


def test_a_search_is_gone_on_with_by_its_directory(tmp_path, monkeypatch):
    """`resume=DIRECTORY` asks for what was asked for before, with what is new."""
    made = driver.own_directory(str(tmp_path), ["algo=td3", LR, "hydra/sweeper=optuna"], "lab")
    command = driver.resume_arguments(str(made), ["hydra.sweeper.n_trials=9"], "lab")
    own = ["algo=td3", LR, "hydra/sweeper=optuna"]
    assert command[:-1] == ["-m", "--config-dir=lab", *own, "hydra.sweeper.n_trials=9"]
    assert command[-1] == f"hydra.sweeper.directory={made}" and driver.is_search(str(made))
    (made / "search.json").write_text("{")
    with pytest.raises(ConfigError, match=r"resume=.*: its search.json cannot be read"):
        driver.resume_arguments(str(made), [])


HARMLESS = ["hydra/launcher=fused", "hydra.launcher.members=4", "hydra.sweeper.seed=3", "hydra.sweep.dir=x", "algo=td3"]
HARMLESS += ["hydra.sweeper.pruner_options={n_startup_trials:2}", "hydra.sweeper.params.algo.gamma=1", "hydrant.x=1"]
NOT_TAKEN = ["hydra.sweeper._target_=os.system", "hydra.launcher._target_=os.system", "hydra=x"]
NOT_TAKEN += ["hydra/launcher=joblib", "++hydra.searchpath=[x]"]
NOT_TAKEN += ["hydra.launcher.address='1.2.3.4:5'", "hydra.launcher.setup=[ls]", "hydra.sweeper.storage='sqlite:////x'"]
NOT_TAKEN += ["hydra.callbacks.x._target_=os.system", "+hydra.callbacks.x=1", "hydra/job_logging=x"]
NOT_TAKEN += ["hydra.launcher.a.b=1", "hydra.sweeper.x=1"]


def test_nothing_that_runs_code_or_reaches_out_is_taken_from_a_stored_search(tmp_path):
    made = driver.own_directory(str(tmp_path), [*HARMLESS, "packages=[evil]"], None)
    assert driver.resume_arguments(str(made), [])[1:-1] == HARMLESS
    for word in NOT_TAKEN:
        made = driver.own_directory(str(tmp_path), [word], None)
        with pytest.raises(ConfigError, match="not taken from a file; say it again"):
            driver.resume_arguments(str(made), [])
        assert driver.resume_arguments(str(made), [word])[1:-1] == [word]
    made = driver.own_directory(str(tmp_path), ["algo=td3"], "lab")
    with pytest.raises(ConfigError, match="was begun with --config-dir=lab"):
        driver.resume_arguments(str(made), [])


def test_runs_are_told_of_a_database_in_words_that_no_redaction_changes():
    told = driver.without_at("postgresql+psycopg://me@127.0.0.1:5432/studies")
    assert told == "postgresql+psycopg://127.0.0.1:5432/studies?user=me"
    assert redaction.settings({"storage": told}) == {"storage": told}
    assert driver.without_at("postgresql://host/x?sslmode=require") == "postgresql://host/x?sslmode=require"


def test_the_interquartile_mean_and_the_area_are_what_they_say():
    assert optuna_trial.aggregated([0, 1, 2, 100], "iqm") == 1.5 and optuna_trial.aggregated([1, 2, 6], "mean") == 3
    assert (
        optuna_trial.from_evaluations("auc", [1.0, 3.0]) == 2.0
        and optuna_trial.from_evaluations("best", [1.0, 3.0, 2.0]) == 3.0
    )
    assert optuna_trial.normalised(-704.0, {"random": -1256, "target": -152}) == 0.5


def test_sixty_four_searches_of_the_same_instant_have_a_directory_each(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "timestamp", lambda: "2026-11-21T11:04:56.123Z")
    made = {driver.own_directory(str(tmp_path), [], None) for _ in range(64)}
    assert len(made) == 64 and all(each.name.startswith("2026-11-21_110456_") for each in made)


def _patient(folder, words):
    """A search in a process of its own, whose runs take a moment."""
    report.study_page = lambda *_: None
    prepared, launcher = search.prepare(asked(*SHORT, *words)), Launcher()

    def launch(jobs, first):
        time.sleep(0.1)
        return launcher(jobs, first)

    driver.search(prepared, launch, folder)


@pytest.mark.slow
def test_a_search_killed_at_any_moment_proposes_what_it_would_have_proposed(tmp_path):
    words = [LR, "algo.gamma=interval(0.9,0.99)", "hydra.sweeper.n_trials=40", "hydra.sweeper.n_jobs=3"]
    words += ["hydra.sweeper.pruner=median", "hydra.sweeper.seeds_per_trial=2"]
    _, undisturbed = searched(tmp_path, Launcher(), *words, name="whole")
    killed, kills, chance = tmp_path / "killed", 0, random.Random(0)
    killed.mkdir()
    fork = multiprocessing.get_context("fork")  # a process begun anew would import for seconds
    for _ in range(200):
        process = fork.Process(target=_patient, args=(killed, words))
        process.start()
        while process.is_alive() and not (killed / "study.journal").exists():
            time.sleep(0.05)
        size = (killed / "study.journal").stat().st_size
        while process.is_alive() and (killed / "study.journal").stat().st_size == size:
            time.sleep(0.01)  # it has begun to work again
        time.sleep(chance.uniform(0.0, 0.6))
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        kills += 1
    rows = [json.loads(line) for line in (killed / "trials.jsonl").read_text().splitlines()]
    assert kills >= 10 and process.exitcode == 0
    for name in ("params", "state", "values", "evaluations"):
        assert [each[name] for each in rows] == [each[name] for each in undisturbed]
