"""Steps per second of Stable-Baselines3 on one of the benchmark's tasks (`work.py`), as one JSON line.

Run in the peers' own environment (see `benchmark.py`). Training is the library's ordinary `learn()`: a user's
call, with nothing of the library taken apart. A callback reads the clock, so that importing, filling the first batch
and compiling stay outside the timed region.

`sbx` is a library of the same classes on JAX, so `sbx.py` takes everything here but the classes.
"""

import argparse
import importlib.metadata
import json
import time

import numpy as np
import stable_baselines3
import torch
import work
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise

STARTS = 100
"""Steps before learning from replay: fewer than elsewhere, as nobody wants to wait for them."""
WARM_UP = 400
"""Steps, at least, between those and the clock: the first updates, where compiling and caches are paid."""


class Stopwatch(BaseCallback):
    """Times a fixed number of steps after warm-up, then ends `learn()`.

    A short probe after warm-up says how many steps will last about `seconds`; they are whole periods of the task.
    `_on_step` is called after the environments' step and before what is learned from it, so between two calls that
    are a period apart lies as much learning as belongs to it.
    """

    def __init__(self, seconds: float, warm_up: int, period: int):
        super().__init__()
        self.seconds, self.warm_up, self.period = seconds, warm_up, period
        self.probe_seconds = min(1.0, seconds / 5)
        self.probe_from: tuple[int, float] | None = None
        self.timed_from: tuple[int, float] | None = None
        self.timed_steps = 0
        self.elapsed = 0.0

    def _on_step(self) -> bool:
        now = time.perf_counter()
        if self.timed_from is not None:
            first_step, began = self.timed_from
            if self.num_timesteps - first_step < self.timed_steps:
                return True
            self.elapsed = now - began
            return False
        if self.probe_from is not None:
            first_step, began = self.probe_from
            steps = self.num_timesteps - first_step
            if now - began >= self.probe_seconds and steps % self.period == 0:
                rate = steps / (now - began)
                self.timed_steps = max(1, round(rate * self.seconds / self.period)) * self.period
                self.timed_from = (self.num_timesteps, time.perf_counter())
        elif self.num_timesteps >= self.warm_up:
            self.probe_from = (self.num_timesteps, now)
        return True


def ddpg(task: work.DDPG) -> dict:
    return {
        "learning_rate": task.lr,
        "buffer_size": task.capacity,
        "learning_starts": STARTS,
        "batch_size": task.batch,
        "tau": task.tau,
        "gamma": task.gamma,
        "train_freq": 1,
        "gradient_steps": 1,
        "action_noise": NormalActionNoise(np.zeros(1), np.full(1, task.noise)),
        "policy_kwargs": {"net_arch": list(task.hidden)},
    }


def dqn(task: work.DQN) -> dict:
    return {
        "learning_rate": task.lr,
        "buffer_size": task.capacity,
        "learning_starts": STARTS,
        "batch_size": task.batch,
        "tau": 1.0,
        "target_update_interval": task.update_every,
        "gamma": task.gamma,
        "train_freq": task.update_every,
        "gradient_steps": task.updates,
        # Exploration falls over a share of all steps, of which there is no end here: it begins where it would arrive.
        "exploration_initial_eps": task.epsilon,
        "exploration_final_eps": task.epsilon,
        "policy_kwargs": {"net_arch": list(task.hidden)},
    }


def ppo(task: work.PPO) -> dict:
    return {
        "learning_rate": task.lr,
        "n_steps": task.steps,
        "batch_size": task.steps * task.num_envs // task.minibatches,
        "n_epochs": task.epochs,
        "gamma": task.gamma,
        "gae_lambda": task.gae_lambda,
        "clip_range": task.clip,
        "clip_range_vf": task.clip,
        "vf_coef": task.value_weight,
        "ent_coef": task.entropy_weight,
        "max_grad_norm": task.max_grad_norm,
        "policy_kwargs": {"net_arch": list(task.hidden)},  # tanh, orthogonal and 1e-5 in Adam are the library's own
    }


SETTINGS = {"ddpg": ddpg, "dqn": dqn, "ppo": ppo}


def measure(library: object, options: argparse.Namespace, packages: tuple[str, ...]) -> dict:
    """Trains the class of that name in `library` and returns what the JSON line holds."""
    torch.set_num_threads(options.threads)
    task = work.chosen(options)
    model = getattr(library, options.algo.upper())(
        "MlpPolicy",
        make_vec_env(task.env, n_envs=task.num_envs),
        **SETTINGS[options.algo](task),
        seed=options.seed,
        device="cpu",
    )
    stopwatch = Stopwatch(options.seconds, STARTS + max(WARM_UP, 2 * task.period), task.period)
    model.learn(total_timesteps=10**9, callback=stopwatch)
    last_episodes = [episode["r"] for episode in model.ep_info_buffer][-10:]
    return {
        "steps_per_second": stopwatch.timed_steps / stopwatch.elapsed,
        "steps": stopwatch.timed_steps,
        "seconds": stopwatch.elapsed,
        "threads": options.threads,
        "mean_return": float(np.mean(last_episodes)),
        "versions": {package: importlib.metadata.version(package) for package in packages},
    }


def main() -> None:
    options = work.arguments(__doc__).parse_args()
    print(json.dumps(measure(stable_baselines3, options, ("stable-baselines3", "torch", "gymnasium", "numpy"))))


if __name__ == "__main__":
    main()
