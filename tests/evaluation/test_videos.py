"""Videos of evaluation episodes: asked for, whole, of the episode that was evaluated, and heard of by nothing else."""

import logging
import sys

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
import pytest
from support.fake_wandb import fake_wandb
from support.make_runs import evaluation_rows, make_run

from rlresearch.cli.main import main
from rlresearch.config.compose import compose
from rlresearch.envs.pendulum import Pendulum
from rlresearch.envs.task import Task
from rlresearch.errors import ConfigError, RunError
from rlresearch.evaluation import video
from rlresearch.evaluation.evaluator import Episode, Evaluator
from rlresearch.evaluation.video import Recorder, record
from rlresearch.loggers.tail import RowFollower
from rlresearch.loggers.wandb import client
from rlresearch.loggers.wandb.settings import WandbSettings
from rlresearch.storage.jsonl import read_rows
from rlresearch.storage.run_directory import RunDirectory, video_of
from rlresearch.training.experiment import plan
from rlresearch.training.loop import LoopSettings, TrainingLoop
from rlresearch.training.reporting import VideoCallback
from rlresearch.training.settings import EvalSettings

PENDULUM = Task("Pendulum-v1", physics=Pendulum(), max_episode_steps=20)


def frames(path):
    """Every picture of an MP4 file, uint8 [height, width, 3]."""
    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return [np.frombuffer(each, np.uint8).reshape(height, width, 3) for each in reader]


def evaluated(task=PENDULUM, members=(0,), keep_first=True):
    evaluator = Evaluator(task, members, keep_first)
    found = evaluator.run(lambda obs: np.sin(obs[..., :1] + obs[..., 2:]), 3, step=7)
    evaluator.close()
    return found, evaluator.firsts


def test_a_video_has_a_picture_for_every_step_and_shows_what_was_done(tmp_path, caplog):
    found, (episode,) = evaluated()
    assert (len(episode.actions), episode.total) == (found[0].lengths[0], found[0].returns[0])
    record(PENDULUM, episode, tmp_path / "a" / "own.mp4")
    assert not caplog.records, "it came to another return"
    shown = frames(tmp_path / "a" / "own.mp4")
    assert len(shown) == 21 and [file.name for file in (tmp_path / "a").iterdir()] == ["own.mp4"]
    env = gym.make("Pendulum-v1", render_mode="rgb_array")
    env.reset(seed=episode.seed)
    for action in episode.actions:
        env.step(2.0 * action)
    last = env.render()
    assert np.abs(shown[-1].astype(int) - last).mean() < 4 < np.abs(shown[0].astype(int) - last).mean() + 2


def test_an_evaluation_is_the_same_with_a_video_and_without(tmp_path):
    assert evaluated()[0] == evaluated(keep_first=False)[0] and not evaluated(keep_first=False)[1]


class Playing:
    """A runner that only counts and plays."""

    def __init__(self):
        self.iteration, self.members, self.learning_start_iteration, self.seen = 0, (0,), 0, []

    def set_active(self, active):
        pass

    def advance(self, iterations, fresh):
        self.iteration += iterations

    def metrics(self):
        return [{}]

    def policy(self, obs):
        self.seen.append(obs.tobytes())
        return np.sin(obs[..., :1] + obs[..., 2:])


def trained(folder, video_every):
    evaluation = EvalSettings(every_steps=10, episodes=2, final_episodes=2, video_every=video_every)
    runner, videos = Playing(), VideoCallback(Recorder(PENDULUM, [folder]), evaluation)
    return TrainingLoop(runner, PENDULUM, LoopSettings(40, 10, evaluation), [videos]).run(), runner.seen


def test_every_nth_evaluation_and_the_last_get_one_and_the_policy_does_not_notice(tmp_path):
    without = trained(tmp_path, None)
    assert not (tmp_path / "videos").exists()
    assert trained(tmp_path, 3) == without
    steps = [int(file.stem.removeprefix("step_")) for file in sorted((tmp_path / "videos").iterdir())]
    assert steps == [30, 40] and video_of(tmp_path, 30).is_file()


@pytest.mark.slow
def test_a_run_with_videos_is_the_run_without_to_the_bit(tmp_path):
    """pytest -m slow -k to_the_bit tests/evaluation/test_videos.py"""
    words = ["env=pendulum", "env.max_episode_steps=20", "total_steps=600", "eval.every_steps=200", "eval.episodes=2"]
    words += ["eval.final_episodes=2", "algo.learning_starts=100", "tuned=none", "logger=quiet", "checkpoint=none"]
    records = []
    for every in ("null", "1"):
        assert main([*words, f"eval.video_every={every}", f"runs_dir={tmp_path / every}"]) == 0
        (path,) = (tmp_path / every).glob("*/*")
        evaluations = [(row["step"], row["returns"]) for row in read_rows(path / "evaluations.jsonl")]
        records.append((RunDirectory(path).recorded()["state_digest"], evaluations))
    assert records[0] == records[1] and len(list((path / "videos").iterdir())) == 3


@pytest.mark.parametrize(
    ("settings", "step", "final", "shown"),
    [
        (dict(every_steps=1000, video_every=None), 1000, True, False),
        (dict(every_steps=1000, video_every=1), 1000, False, True),
        (dict(every_steps=1000, video_every=2), 1000, False, False),
        (dict(every_steps=1000, video_every=2), 2002, False, True),
        (dict(every_steps=None, video_every=2), 555, True, True),
    ],
)
def test_which_evaluations_are_shown(settings, step, final, shown):
    assert EvalSettings(**settings).shows(step, final) == shown


def test_what_cannot_be_recorded_is_warned_of_once_and_ends_nothing(tmp_path, monkeypatch, caplog):
    def broken(*_):
        raise RunError("no pen")

    monkeypatch.setattr(video, "write_video", broken)
    recorder = Recorder(PENDULUM, [tmp_path])
    with caplog.at_level(logging.WARNING, logger="rlresearch"):
        for step in (1, 2):
            recorder.record(step, [Episode(0, [np.zeros(1)], 0.0)], [True])
    assert [record.getMessage() for record in caplog.records] == ["a video could not be made: no pen. The run goes on."]
    assert not list((tmp_path / "videos").iterdir())


def test_an_episode_that_does_not_repeat_itself_is_told_of(tmp_path, caplog):
    record(PENDULUM, Episode(0, [np.zeros(1)] * 3, total=5.0), tmp_path / "other.mp4")
    assert "does not repeat itself" in caplog.text


def test_an_interrupted_video_leaves_nothing(tmp_path):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(PENDULUM, Episode(0, [np.zeros(1)] * 3, 0.0), tmp_path / "some.mp4", stop)
    assert not list(tmp_path.iterdir())


def planned(*words):
    return plan(compose(["tuned=none", "eval.video_every=1", *words]).config)


def test_an_environment_that_cannot_be_drawn_is_refused_before_anything_runs():
    with pytest.raises(ConfigError, match=r"eval.video_every=1: .*MatrixBandit-v0 cannot draw pictures"):
        planned("env=matrix_bandit", "algo=dqn")
    assert planned("env=cartpole", "algo=dqn").eval.video_every == 1


def test_a_library_that_is_missing_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ConfigError, match=r"eval.video_every=1: needs imageio-ffmpeg .*rlresearch\[video\]"):
        planned("env=cartpole", "algo=dqn")


def test_wandb_gets_the_video_with_its_evaluation(tmp_path, monkeypatch):
    path = make_run(tmp_path, rows=[], evaluations=evaluation_rows(count=2))
    record(PENDULUM, Episode(0, [np.zeros(1)] * 3, 0.0), video_of(path, 400))
    with fake_wandb() as server:
        for name, value in server.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        client.fill(path, RowFollower(path).rest(), WandbSettings(entity="lab"), 120.0)
        first, second = server.history(path.name)
        assert "eval/video" not in first and second["eval/video"]["_type"] == "video-file"
        sent = server.runs[path.name]["files"][second["eval/video"]["path"]]
        assert sent == video_of(path, 400).read_bytes()
        assert second["plots/learning_curve"]["_type"] == "image-file" and second["eval/return_histogram"]
