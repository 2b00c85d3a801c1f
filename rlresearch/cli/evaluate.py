"""`python -m rlresearch.evaluate RUN`: the return of a stored policy.

Episodes begin from the seeds of the evaluations in training, so the same number of episodes gives the same returns.
`--seed` chooses other seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rlresearch.cli.stored_policy import StoredPolicy, policy_parser, stored_policy
from rlresearch.errors import ConfigError, exit_code_of, format_value
from rlresearch.evaluation.video import check_rendering, record
from rlresearch.runtime import devices, watchdog


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, 1 where an environment failed, 2 for a wrong command."""
    parser = policy_parser("python -m rlresearch.evaluate", "How good a stored policy is.")
    parser.add_argument("--episodes", type=_positive, default=100, help="how many (default: 100)")
    parser.add_argument("--seed", type=int, help="of their starts; default: the run's own")
    parser.add_argument("--video", type=Path, metavar="FILE", help="also write the first episode there, as .mp4")
    parser.add_argument("--json", action="store_true", help="print one JSON object with every return and length")
    return exit_code_of(lambda: _evaluate(parser.parse_args(argv)))


def _evaluate(options: argparse.Namespace) -> None:
    from rlresearch.evaluation.evaluator import Evaluator
    from rlresearch.training.state_io import learned

    policy = stored_policy(options)
    if options.video is not None:
        _check_video(options.video, policy)
    settings, step = policy.plan.settings, policy.loaded.about.step
    devices.prepare("cpu", settings.threads, settings.deterministic, settings.compile_cache)
    import tensorflow as tf

    state = learned(policy.plan.trainer, policy.loaded, policy.index)
    act = tf.function(lambda obs: policy.plan.trainer.policy(state, obs), autograph=False, reduce_retracing=True)
    seed = settings.seed if options.seed is None else options.seed
    given = policy.plan.eval
    limits = {"copies": given.copies, "most_steps": given.max_episode_steps}
    evaluator = Evaluator(replace(policy.plan.task, num_envs=1), (seed,), options.video is not None, **limits)
    try:
        with watchdog.watched(policy.plan.task.timeout_s, policy.plan.task.id):
            (found,) = evaluator.run(lambda obs: act(obs[0]).numpy()[None], options.episodes, step)
    finally:
        evaluator.close()
    if options.video is not None:
        (first,) = evaluator.firsts
        assert first is not None
        record(policy.plan.task, first, options.video)
    if options.json:
        print(json.dumps({"run": policy.run, "step": step, "seed": seed} | found._asdict()))
    else:
        returns, length = np.asarray(found.returns), np.mean(found.lengths)
        spread = f"{returns.mean():,.1f} ± {returns.std():,.1f}, from {returns.min():,.1f} to {returns.max():,.1f}"
        print(f"return {spread} ({options.episodes} episodes, mean length {length:,.1f}, step {step:,})")


def _check_video(path: Path, policy: StoredPolicy) -> None:
    if path.suffix != ".mp4" or not path.absolute().parent.is_dir():
        raise ConfigError(
            f"--video={format_value(str(path))}: must be a file that ends in .mp4, in a folder that exists."
        )
    check_rendering(policy.plan.task, "--video")


def _positive(text: str) -> int:
    number = int(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"must be above 0, not {number}")
    return number
