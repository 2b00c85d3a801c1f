"""Environments that misbehave, in this process and in others: what is right, or one line; never a hang."""

import faulthandler
import multiprocessing
import re

import numpy as np
import pytest
from support import misbehaving
from support.misbehaving import EPISODE

from rlresearch import rng
from rlresearch.envs import closing, processes
from rlresearch.envs.host import HostEnv
from rlresearch.envs.task import Task
from rlresearch.errors import ConfigError, RunError

PATIENCE_S = 300  # then something hangs: the tests end here, and say where
AT_FAULT = r"at step 3 of its episode.*\(copy [01], episode seed \d+, action \[0\.\]\)"


@pytest.fixture(autouse=True)
def never_a_hang(monkeypatch):
    """Also: nothing is left of the processes, and closing takes a moment only."""
    monkeypatch.setattr(closing, "CLOSING_S", 0.5)
    monkeypatch.setattr(processes, "CLOSING_S", 0.5)
    faulthandler.dump_traceback_later(PATIENCE_S, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
    assert multiprocessing.active_children() == []


def stepped(name, vectorization, steps=2 * EPISODE + 1, **settings):
    """Two copies after some steps: the HostSteps, and what was found of the environment."""
    task = Task(f"{name}-v0", num_envs=2, vectorization=vectorization, timeout_s=1.0, **settings)
    env = HostEnv(task, rng.split(rng.key(0), 2).numpy())
    try:
        first = env.reset()
        return first, [env.step(np.zeros((2, 1), np.float32)) for _ in range(steps)], env.finding
    finally:
        env.close()
        env.close()  # twice does no harm


def both(*names, slow=()):
    """Each name in this process, and in processes of their own, these among the slow tests where `slow` says so."""
    marks = {name: [pytest.mark.slow] if name in slow else [] for name in names}
    return [pytest.param(name, "sync") for name in names] + [
        pytest.param(name, "async", marks=marks[name]) for name in names
    ]


SAYS = ["RaggedInfo", "UnpicklableInfo", "NoInfo", "LargeInfo", "LyingInfo"]
SHOWS = ["OneArray", "ArrayOfAll", "OneReward", "WritesIntoActions", "Clock", "OwnLimit"]
ENDS = ["CloseRaises", "CloseBlocks", "CloseBlocksAndCatches", "LeavesAThread"]
SLOW = {"UnpicklableInfo", "NoInfo", "LargeInfo", "LyingInfo", "ArrayOfAll", "OneReward", "WritesIntoActions", "Clock"}
SLOW |= {"OwnLimit", "CloseRaises", "CloseBlocksAndCatches"}


@pytest.mark.parametrize(("name", "vectorization"), both(*SAYS, *SHOWS, *ENDS, slow=SLOW))
def test_what_can_be_right_is_right(name, vectorization):
    first, steps, finding = stepped(name, vectorization)
    assert first[:, 0].tolist() == [0.0, 0.0] and finding is None
    for number, step in enumerate(steps):
        at = number % EPISODE + 1
        assert step.next_obs[:, 0].tolist() == [at, at] and step.reward.tolist() == [at, at]
        assert step.truncated.tolist() == [at == EPISODE] * 2 and not step.terminated.any()
        assert step.obs[:, 0].tolist() == [at % EPISODE] * 2


@pytest.mark.parametrize("vectorization", ["sync", pytest.param("async", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["OneArray", "ArrayOfAll"])
def test_a_stack_of_frames_shows_each_as_it_was(name, vectorization):
    _, steps, _ = stepped(name, vectorization, 4, frame_stack=3)
    shown = [step.next_obs[0, :, 0].tolist() for step in steps]
    assert shown == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]


@pytest.mark.parametrize(("name", "vectorization"), both("CloseRaises", "CloseBlocks", slow=["CloseBlocks"]))
def test_a_close_that_fails_is_a_warning(name, vectorization, caplog):
    stepped(name, vectorization, 1)
    told = {"CloseRaises": "raised OSError: the port is gone when it was closed"}.get(name, "did not come back within")
    assert f"environment '{name}-v0' {told}" in caplog.text


WORDS = {
    "RaisesWhatCannotBePickled": r"raised " + AT_FAULT.replace(".*", ": UnpicklableError: the arm is stuck "),
    "RaisesWhatCannotBeShown": r"raised " + AT_FAULT.replace(".*", ": SilentError, which cannot be shown "),
    "Exits": r"raised " + AT_FAULT.replace(".*", ": SystemExit: 0 "),
    "TooLarge": r"returned the observation \[.*e\+300\], expected numbers that float32 holds " + AT_FAULT,
    "NotNumbers": r"returned object as observation, expected numbers " + AT_FAULT,
    "OldReset": r"returned an observation of shape \(\), expected \(2,\) at step 0 .*\(copy [01], episode seed \d+\)",
}


@pytest.mark.parametrize(
    ("name", "vectorization"), both(*WORDS, slow={*WORDS} - {"RaisesWhatCannotBePickled", "Exits"})
)
def test_what_fails_is_one_line_with_copy_seed_step_and_action(name, vectorization):
    with pytest.raises(RunError) as caught:
        stepped(name, vectorization)
    assert re.match(f"environment '{name}-v0' {WORDS[name]}", str(caught.value)), caught.value


def test_the_traceback_of_another_process_comes_along():
    with pytest.raises(RunError) as caught:
        stepped("RaisesWhatCannotBePickled", "async")
    assert "in fail" in str(caught.value.__cause__)


NEVER_BACK = ["Stopped", "Sleeps", pytest.param("HoldsTheInterpreter", marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", NEVER_BACK)
def test_a_copy_that_does_not_come_back_is_ended_and_named(name):
    with pytest.raises(
        RunError, match=r"copy 0 did not come back within 1 s from step 3 of its episode \(episode seed"
    ):
        stepped(name, "async")


@pytest.mark.slow
def test_a_reset_that_does_not_come_back_is_told_as_one():
    with pytest.raises(RunError, match=r"copy 0 did not come back within 1 s from reset \(episode seed \d+\)"):
        stepped("SleepsInReset", "async")


def test_a_process_that_dies_is_told_with_its_place():
    words = (
        r"process that steps copy 0 is gone \(exit code 3\).* at step 3 of its episode \(episode seed \d+, action \[0"
    )
    with pytest.raises(RunError, match=words):
        stepped("Dies", "async")


def test_those_that_were_made_are_closed_where_one_cannot_be():
    misbehaving.OnlyTwo.alive = 0
    task = Task("OnlyTwo-v0", num_envs=3)
    with pytest.raises(ConfigError, match="cannot be made.*port 5005 is in use"):
        HostEnv(task, rng.split(rng.key(0), 3).numpy())
    assert misbehaving.OnlyTwo.alive == 0


# What a run's seed does not decide.


@pytest.mark.parametrize(
    ("name", "vectorization"), both("OwnRandomness", "PythonsRandomness", slow=["PythonsRandomness"])
)
def test_an_environment_with_a_random_source_of_its_own_is_noticed_after_its_first_episode(name, vectorization):
    assert stepped(name, vectorization, EPISODE - 1)[2] is None
    finding = stepped(name, vectorization, EPISODE)[2]
    assert (finding.kind, finding.episode) == ("own_randomness", 0) and f"'{name}-v0'" in finding.message


@pytest.mark.parametrize(("name", "vectorization"), both("Memory", slow=["Memory"]))
def test_memory_over_episodes_is_noticed_in_the_first_episode_that_shows_it(name, vectorization):
    finding = stepped(name, vectorization, 2 * EPISODE)[2]
    assert (finding.kind, finding.episode) == ("memory", 1) and "checkpoint.episodes=fresh" in finding.message


@pytest.mark.parametrize("reseed", [True, False])
def test_seeds_are_those_of_each_episode_or_of_the_first_alone(reseed):
    """As Gymnasium's text has it: a seed once, and the generator goes on from episode to episode."""
    seeds = []

    class Seeds(misbehaving.Steps):
        def reset(self, *, seed=None, options=None):
            seeds.append(seed)
            return super().reset(seed=seed)

    misbehaving.gym.register(f"Seeds{reseed}-v0", entry_point=Seeds, max_episode_steps=1_000)
    stepped(f"Seeds{reseed}", "sync", 2 * EPISODE, reseed=reseed)
    assert len(seeds) == 6 and None not in seeds[:2]
    assert all((seed is not None) == reseed for seed in seeds[2:])
    assert len({*seeds}) == (6 if reseed else 3)
