"""`python -m rlresearch.evaluate RUN`: how good a stored policy is.

The episodes of a checkpoint's evaluation begin from the seeds that they began from in training, so the same number of
them gives the same returns; `--seed` chooses others.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlresearch.errors import ConfigError, RunError, one_line, shown
from rlresearch.evaluation.video import check_rendering, record
from rlresearch.runtime import devices, watchdog
from rlresearch.storage import checkpoint
from rlresearch.storage.checkpoint import Loaded
from rlresearch.training import resume
from rlresearch.training.experiment import Plan, plan


class StoredPolicy(NamedTuple):
    """A run's plan, one of its checkpoints, and which member's of it is meant, where it is a population's."""

    plan: Plan
    loaded: Loaded
    index: int | None
    run: str


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, 1 where an environment failed, 2 for a wrong command."""
    parser = policy_parser("python -m rlresearch.evaluate", "How good a stored policy is.")
    parser.add_argument("--episodes", type=_positive, default=100, help="how many (default: 100)")
    parser.add_argument("--seed", type=int, help="of their starts; default: the run's own")
    parser.add_argument("--video", type=Path, metavar="FILE", help="also write the first episode there, as .mp4")
    parser.add_argument("--json", action="store_true", help="print one JSON object with every return and length")
    return answered(parser, argv, _evaluate)


def policy_parser(command: str, what: str) -> argparse.ArgumentParser:
    """The arguments by which every command takes a stored policy."""
    parser = argparse.ArgumentParser(prog=command, description=what)
    parser.add_argument("run", help="a run directory")
    parser.add_argument("--checkpoint", default="last", help="last (default), best, or the step of one")
    parser.add_argument(
        "--packages", nargs="*", default=[], metavar="NAME", help="where components may come from, beside rlresearch"
    )
    parser.add_argument("--config-dir", help="a folder with components of your own")
    parser.error = _refuse
    return parser


def answered(parser: argparse.ArgumentParser, argv: Sequence[str] | None, command: Any) -> int:
    """Runs `command(options)`; what goes wrong is told in one line."""
    try:
        command(parser.parse_args(argv))
    except (ConfigError, RunError) as error:
        print(f"rlresearch: {one_line(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def stored_policy(options: argparse.Namespace) -> StoredPolicy:
    """What `policy_parser`'s arguments name; TensorFlow is not loaded. ConfigError where it is not there."""
    if options.config_dir is not None:
        sys.path.insert(0, options.config_dir)
    packages = resume.named_packages(options.packages, options.config_dir)
    stored = resume.open_run(options.run, "RUN")
    config = resume.read_config(stored.directories[stored.index] / "config.yaml")
    config |= {"runs_dir": str(stored.home.parent), "packages": [], "init_from": None}
    made = plan(config, ["rlresearch", *packages])
    loaded = checkpoint.chosen(stored.home, options.checkpoint, f"--checkpoint={options.checkpoint}")
    index = stored.index if stored.record.get("population") else None
    return StoredPolicy(made, loaded, index, str(stored.directories[stored.index]))


def _evaluate(options: argparse.Namespace) -> None:
    from rlresearch.evaluation.evaluator import Evaluator
    from rlresearch.training.checkpointing import learned

    policy = stored_policy(options)
    if options.video is not None:
        _check_video(options.video, policy)
    settings, step = policy.plan.settings, policy.loaded.about.step
    devices.prepare("cpu", settings.threads, settings.deterministic, settings.compile_cache)
    import tensorflow as tf

    state = learned(policy.plan.trainer, policy.loaded, policy.index)
    act = tf.function(lambda obs: policy.plan.trainer.policy(state, obs), autograph=False, reduce_retracing=True)
    seed = settings.seed if options.seed is None else options.seed
    evaluator = Evaluator(replace(policy.plan.task, num_envs=1), (seed,), keep_first=options.video is not None)
    try:
        with watchdog.watched(policy.plan.task.timeout_s, policy.plan.task.id):
            (found,) = evaluator.run(lambda obs: act(obs[0]).numpy()[None], options.episodes, step)
    finally:
        evaluator.close()
    if options.video is not None:
        record(policy.plan.task, evaluator.firsts[0], options.video)
    if options.json:
        print(json.dumps({"run": policy.run, "step": step, "seed": seed} | found._asdict()))
    else:
        returns, length = np.asarray(found.returns), np.mean(found.lengths)
        spread = f"{returns.mean():,.1f} ± {returns.std():,.1f}, from {returns.min():,.1f} to {returns.max():,.1f}"
        print(f"return {spread} ({options.episodes} episodes, mean length {length:,.1f}, step {step:,})")


def _check_video(path: Path, policy: StoredPolicy) -> None:
    if path.suffix != ".mp4" or not path.absolute().parent.is_dir():
        raise ConfigError(f"--video={shown(str(path))}: must be a file that ends in .mp4, in a folder that exists.")
    check_rendering(policy.plan.task, "--video")


def _refuse(message: str) -> None:
    raise ConfigError(f"{message}; --help lists what there is.")


def _positive(text: str) -> int:
    number = int(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"must be above 0, not {number}")
    return number
