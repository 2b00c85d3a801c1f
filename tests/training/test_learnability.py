"""A run that would learn nothing, or not what was asked for, is refused or says so: on the console and in run.json."""

import json
from dataclasses import replace
from typing import NamedTuple

import pytest
import tensorflow as tf
from conftest import ALGORITHMS, composed, make_plan, without_xla

from rlresearch.cli.main import main
from rlresearch.config.hydra_session import CONFIG_FOLDER
from rlresearch.errors import ConfigError
from rlresearch.networks import Params
from rlresearch.runners.runner import Runner
from rlresearch.schedules import Linear
from rlresearch.storage.jsonl import read_rows
from rlresearch.training.experiment import plan
from rlresearch.training.learnability import StandstillCheck, obstacles

LINE = "schedule@optimizer.schedule=linear"
STEPS = "schedule@optimizer.schedule=piecewise"


def planned(command, packages=None):
    return plan(composed(*command.split(), "tuned=none"), packages)


def told(command, certain, first=0):
    """The sentences about a run that goes on at an iteration, as a stored one, which is not refused."""
    made = planned(command, ["rlresearch"])
    found = obstacles(made.trainer, made.settings.total_steps, first)
    return " ".join(each.sentence for each in found if each.certain == certain)


# What is known before the first step.

NOTHING_LEARNED = {
    "algo=dqn env=cartpole total_steps=1000 algo.learning_starts=990 algo.update_every=64": (
        "algo.update_every=64: no update falls due from step 0 to 1000"
    ),
    "algo=dqn env=cartpole total_steps=1900 env.num_envs=64 algo.update_every=32": "rounds of learning are 2048 steps",
    "algo=dqn env=cartpole total_steps=1000": "algo.learning_starts=1000: must be below total_steps, which is 1000",
    "algo=ppo env=cartpole total_steps=2000": "total_steps=2000: must be at least one rollout, which is 2048",
    "algo=ppo env=cartpole algo.rollout_steps=16 algo.minibatches=16": "the advantage of one row is 0",
    "algo=a2c env=cartpole algo.rollout_steps=1 algo.normalize_advantages=true": "the advantage of one row is 0",
    f"algo=ppo env=cartpole {LINE} optimizer.schedule.over=10000": "optimizer.schedule: the learning rate is 0 for 50%",
    f"algo=ddpg {LINE} optimizer.schedule.start=0": "the learning rate is 0 for 100%",
    f"algo=ddpg {LINE} optimizer.schedule.per=update optimizer.schedule.over=9950": "the learning rate is 0 for 50%",
    f"algo=ddpg {STEPS} optimizer.schedule.factors=[1,0]": "the learning rate is 0 for 50%",
    f"algo=ddpg {LINE[:-6]}exponential optimizer.schedule.per=step": "the learning rate is 0 for 93%",
    "algo=sarsa env=frozen_lake schedule@algo.schedule=linear algo.schedule.over=9000": "the step size is 0 for",
    "algo=ppo env=cartpole schedule@algo.clip_schedule=linear algo.clip_schedule.over=9000": "clip is 0 for 55%",
    "algo=td3 network.actor.output_activation=linear": "must be tanh or softsign for TD3",
    "algo=ddpg network.actor.output_activation=sigmoid": "must be tanh or softsign for DDPG",
    "algo=dqn env=cartpole env.num_envs=16 buffer.capacity=127 buffer.n_step=8": "which is 128",
}


@pytest.mark.parametrize("command", NOTHING_LEARNED)
def test_a_new_run_that_would_learn_nothing_is_refused_and_a_stored_one_is_told(command):
    with pytest.raises(ConfigError) as refused:
        planned(command)
    assert NOTHING_LEARNED[command] in str(refused.value)
    assert NOTHING_LEARNED[command] in told(command, certain=True)


LEARNS = [
    "algo=dqn env=cartpole total_steps=1024 algo.learning_starts=990 algo.update_every=64",  # one round, at the end
    "algo=dqn env=cartpole total_steps=2048 env.num_envs=64 algo.update_every=32",
    "algo=dqn env=cartpole total_steps=1001",
    "algo=ppo env=cartpole total_steps=2048",
    "algo=ppo env=cartpole algo.rollout_steps=16 algo.minibatches=8",
    "algo=ppo env=cartpole algo.rollout_steps=16 algo.minibatches=16 algo.normalize_advantages=false",
    "algo=ppo env=cartpole algo.rollout_steps=1 algo.minibatches=1 env.num_envs=2",
    f"algo=ppo env=cartpole {LINE} total_steps=300000",
    f"algo=ppo env=cartpole {LINE} optimizer.schedule.over=18100",
    f"algo=ppo env=cartpole {LINE} optimizer.schedule.over=10 optimizer.schedule.end=0.01",
    f"algo=ddpg {LINE} optimizer.schedule.start=0 optimizer.schedule.end=1",
    f"algo=ddpg {LINE} optimizer.schedule.per=update",
    "algo=ddpg network.actor.output_activation=softsign",
    "algo=dqn env=cartpole env.num_envs=16 buffer.capacity=128 buffer.n_step=8",
]


@pytest.mark.parametrize("command", LEARNS)
def test_a_run_that_learns_is_not_refused(command):
    assert told(command, certain=True) == "" and planned(command)


WARNED = {
    "algo=dqn env=cartpole total_steps=1249": "the target network never moves in the 249 gradient",
    "algo=td3 algo.policy_delay=5000 total_steps=5000": "algo.policy_delay=5000: the policy never moves in the 4900",
    "algo=dqn env=cartpole buffer.n_step=4 env.num_envs=32 buffer.capacity=500": "19% of the rows have fewer than",
    "algo=dqn env=cartpole noise.schedule.begin=30000": "noise.schedule: is the same from step 0 to 20000",
    "algo=ddpg network.critic.output_activation=tanh": "the network's values stay",
}


@pytest.mark.parametrize("command", WARNED)
def test_what_may_be_meant_is_told_and_not_refused(command):
    planned(command)
    assert WARNED[command] in told(command, certain=False)


@pytest.mark.parametrize("command", ["algo=dqn env=cartpole total_steps=1250", "algo=td3", "algo=sac", "algo=ppo"])
def test_an_ordinary_run_is_told_nothing(command):
    assert told(command, certain=True) == told(command, certain=False) == ""


@pytest.mark.parametrize("starts, every, envs", [(0, 1, 1), (7, 1, 1), (8, 4, 1), (9, 4, 1), (10, 3, 4), (0, 5, 3)])
def test_the_arithmetic_is_the_loops_own(starts, every, envs):
    """Of runs of any length up to 40 iterations, those are found in which the training step learns nothing."""
    made = make_plan("dqn", f"env.num_envs={envs}", learning_starts=starts, update_every=every, batch_size=1)
    trainer, learned = made.trainer, 0
    for iteration in range(40):
        total = (iteration + 1) * envs
        if iteration >= trainer.learning_start_iteration:  # as `HostRunner.advance` and `TrainingStep.learn` ask
            learned += (iteration + 1) % every == 0
        refused = [each for each in obstacles(trainer, total) if each.certain]
        assert (learned == 0) == bool(refused) and max(trainer.updates_by(iteration + 1), 0) == learned


def test_a_member_with_a_learning_rate_of_0_is_refused_too():
    values = "runner.values={optimizer.schedule.end:[0.1,0.0]}"
    command = (
        f"algo=ddpg runner=population runner.seeds=2 {LINE} optimizer.schedule.over=9000 optimizer.schedule.end=0.1"
    )
    planned(command)
    with pytest.raises(ConfigError, match="the learning rate is 0 for 55%"):
        planned(f"{command} {values}")


# Schedules of shipped options.

TUNED = sorted(path.stem for path in (CONFIG_FOLDER / "tuned").glob("*_*.yaml"))


@pytest.mark.parametrize("name", TUNED)
def test_tuned_settings_learn_to_the_end_of_a_run_of_any_length(name):
    algo = max((each for each in ALGORITHMS if name.startswith(f"{each}_")), key=len)
    env = name.removeprefix(f"{algo}_")
    made = plan(composed(f"algo={algo}", f"env={env}", "total_steps=777_777"))
    schedule = made.trainer.algo.optimizer.schedule
    if isinstance(schedule, Linear):
        assert "optimizer.schedule" in made.following
        assert schedule.value_at(777_776) > schedule.end == schedule.value_at(777_777)


# What shows only while a run trains.


class State(NamedTuple):
    algo: dict


class Moves(Runner):
    """Networks whose numbers are set by hand."""

    members = (0,)

    def __init__(self, *networks):
        self.iteration = 0
        self.parameters = {name: tf.Variable(tf.fill((3, 2), 0.5)) for name in networks}

    def state(self):
        return State({name: Params([each], [tf.ones(2)]) for name, each in self.parameters.items()})


def stands_still(moving, learning=True):
    """What is said of networks, of which `moving(name, step)` change before a row: 50 rows in 1,000 steps."""
    heard, runner = [], Moves("actor", "critic", "target_actor")
    trainer = make_plan("ddpg").trainer
    trainer = replace(trainer, algo=replace(trainer.algo, learning_starts=0 if learning else 10**9))
    check = StandstillCheck(runner, trainer, 1000, heard.append)
    for step in range(20, 1001, 20):
        runner.iteration = step
        for name, each in runner.parameters.items():
            if moving(name, step):
                each.assign_add(tf.fill((3, 2), 1e-7))
        check.on_rows(step, [{}])
    return heard


def test_a_network_that_stands_still_for_a_tenth_of_the_run_is_told_once():
    (heard,) = stands_still(lambda name, step: name == "critic" or step < 300)
    assert "network 'actor' has not changed from step 280 to 400, though it took 120 gradient steps" in heard


def test_standing_still_for_less_or_without_gradient_steps_is_nothing():
    """A target may stand still, and each network for up to a tenth of the run."""
    assert stands_still(lambda name, step: name != "target_actor" and step % 100 == 0) == []
    assert stands_still(lambda name, step: False, learning=False) == []


# Whole runs.

SMALL = ["algo=ppo", "network.actor.hidden=[4]", "network.critic.hidden=[4]", "tuned=none", "device=cpu"]
SMALL += ["compile_cache=false", "eval.every_steps=null", "eval.final_episodes=1", "env.max_episode_steps=10"]
SMALL += ["logger.every_steps=16", "logger.console=plain", "total_steps=64", LINE]
SMALL += ["algo.rollout_steps=16", "algo.minibatches=2", "algo.epochs=2"]


def ran(folder, *words):
    """(run.json, rows of metrics) of the run in a folder, after a command."""
    with without_xla():
        assert main([*words, *([] if words[0].startswith("resume") else [f"runs_dir={folder}"])]) == 0
    (run,) = (path.parent for path in folder.glob("*/*/run.json"))
    return run, json.loads((run / "run.json").read_text()), list(read_rows(run / "metrics.jsonl"))


def test_a_longer_resume_learns_on_by_a_schedule_that_follows_the_run_and_says_so(tmp_path, capsys):
    run, record, _ = ran(tmp_path, *SMALL)
    assert record["warnings"] == [] and "these schedules" not in capsys.readouterr().out
    _, record, rows = ran(tmp_path, f"resume={run}", "total_steps=128")
    assert "these schedules go on from step 64 as in a run of 128 steps: optimizer.schedule" in capsys.readouterr().out
    # The line reaches 0 with the last rollout of each session, as it was when that was learned from.
    assert [row["policy/kl"] > 0.0 for row in rows] == [True, True, True, False] * 2
    assert record["warnings"] == []


def test_a_longer_resume_past_the_end_of_a_schedule_says_that_nothing_is_learned(tmp_path, capsys):
    run, record, _ = ran(tmp_path, *SMALL, "optimizer.schedule.over=64")
    assert record["warnings"] == []
    _, record, rows = ran(tmp_path, f"resume={run}", "total_steps=128")
    assert [row["policy/kl"] == 0.0 for row in rows] == [False] * 3 + [True] * 5
    arithmetic, actor, critic = record["warnings"]
    assert arithmetic.startswith("optimizer.schedule: the learning rate is 0 for 100% of the steps from 64 to 128")
    assert actor.startswith("network 'actor' has not changed") and critic.startswith("network 'critic' has not changed")
    out = capsys.readouterr().out
    assert all(out.count(f"warning: {sentence}") == 1 for sentence in record["warnings"])
    assert arithmetic in (run / "log.txt").read_text()


def test_a_warning_of_a_new_run_is_kept_in_its_record(tmp_path, capsys):
    words = [word for word in SMALL if "actor" not in word and "critic" not in word and "minibatches" not in word]
    words = [word for word in words if not word.startswith(("algo", "schedule"))]
    _, record, _ = ran(tmp_path, "algo=dqn", "env=cartpole", "network.q.hidden=[4]", *words, "algo.learning_starts=32")
    (sentence,) = record["warnings"]
    assert sentence == (
        "algo.target_every=250: the target network never moves in the 32 gradient steps from step 0 to 64."
    )
    assert f"warning: {sentence}" in capsys.readouterr().out
