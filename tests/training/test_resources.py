"""What a run will need is known before it begins, and a machine that has not got it is named."""

import shutil
from collections import namedtuple

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_plan

from rlresearch.errors import ConfigError
from rlresearch.training import resources
from rlresearch.training.resources import check_room, free_memory, row_bytes

PRIORITIZED = ["buffer=prioritized", "buffer.capacity=5_000"]


@pytest.mark.parametrize(
    "algo, overrides",
    [("ddpg", []), ("ddpg", ["env=mountain_car_continuous"]), ("dqn", []), ("dqn", PRIORITIZED), ("dqn", ["env=taxi"])],
)
def test_the_replay_takes_what_was_predicted(algo, overrides):
    made = make_plan(algo, *overrides)
    state = made.trainer.buffer.init(made.trainer.example_row(), made.task.num_envs)
    taken = sum(leaf.numpy().nbytes for leaf in tf.nest.flatten(state) if leaf.shape.rank)
    assert resources.footprint(made).replay == pytest.approx(taken, rel=0.03)  # a sum tree's inner nodes
    assert taken > made.trainer.buffer.capacity * row_bytes(made.task.spec)


def test_members_take_it_each_and_a_rollout_none():
    alone = resources.footprint(make_plan("ddpg"))
    together = resources.footprint(make_plan("ddpg", "runner=population", "runner.seeds=7"))
    assert np.allclose(together, 7 * np.array(alone))
    assert resources.footprint(make_plan("ppo"))[:2] == (0, 0)


def test_the_disk_holds_no_more_rows_than_there_will_be():
    few, many = (make_plan("ddpg", f"total_steps={steps}") for steps in (500, 50_000))
    row = row_bytes(few.task.spec)
    assert 500 * row <= resources.footprint(few).checkpoints <= 600 * row
    assert resources.footprint(many).checkpoints == 1_000 * row * 9 // 8
    assert resources.footprint(make_plan("ddpg", "checkpoint=none")).checkpoints == 0


def test_a_replay_that_memory_cannot_hold_is_refused(monkeypatch):
    made = make_plan("ddpg", "runner=population", "runner.seeds=7", "buffer.capacity=1_000_000")
    monkeypatch.setattr(resources, "free_memory", lambda: 238_000_001)
    check_room(made)
    monkeypatch.setattr(resources, "free_memory", lambda: 237_999_999)
    with pytest.raises(ConfigError, match=r"buffer.capacity=1000000: needs 238.0 MB of memory for 7 members, 238.0 MB"):
        check_room(made)


def test_a_disk_that_cannot_hold_the_run_is_refused(monkeypatch, tmp_path):
    made = make_plan("ddpg", "total_steps=50_000", f"runs_dir={tmp_path}/not/there/yet")
    need = resources.footprint(made)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(need.checkpoints + need.logs))
    check_room(made)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(need.checkpoints + need.logs - 1))
    with pytest.raises(ConfigError, match=r"runs_dir=.*: the run may write .* are free there; .*checkpoint=none"):
        check_room(made)


@pytest.mark.parametrize(
    "limit, used, free",
    [("max", "5", 2048), ("5000", "4000", 1000), ("900000", "100", 2048), (None, None, 2048), ("10", "20", 0)],
)
def test_free_memory_is_the_machines_or_the_control_groups(tmp_path, limit, used, free):
    (tmp_path / "meminfo").write_text("MemTotal:       9 kB\nMemAvailable:   2 kB\n")
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.current").write_text(used)
    assert free_memory(tmp_path / "meminfo", tmp_path) == free


def test_where_nobody_says_nothing_is_refused(tmp_path):
    assert free_memory(tmp_path / "no", tmp_path) is None
