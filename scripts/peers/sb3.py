"""Steps per second of Stable-Baselines3's DDPG on Pendulum-v1, as one JSON line.

Run in the peers' own environment (see `scripts/benchmark.py`). Training is the library's ordinary `learn()`: a user's
call, with nothing of the library taken apart. A callback reads the clock, so that importing, filling the first batch
and compiling stay outside the timed region.

`sbx` is a library of the same classes on JAX, so `sbx.py` takes everything here but the class.
"""

import argparse
import importlib.metadata
import json
import time

import gymnasium
import numpy as np
import torch
from stable_baselines3 import DDPG
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise

WARM_UP_STEPS = 500
"""Steps before the clock starts: 100 without learning, then the first updates, where compiling and caches are paid."""


def arguments(description: str) -> argparse.Namespace:
    """The command line that `sb3.py` and `sbx.py` share."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 64], help="units of each hidden layer")
    parser.add_argument("--batch", type=int, default=128, help="transitions in each update")
    parser.add_argument("--capacity", type=int, default=100_000, help="transitions that the replay buffer holds")
    parser.add_argument("--seconds", type=float, default=10.0, help="about how long the timed region lasts")
    parser.add_argument("--threads", type=int, default=1, help="threads for the numerical library")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


class Stopwatch(BaseCallback):
    """Times a fixed number of steps after warm-up, then ends `learn()`.

    A short probe after warm-up says how many steps will last about `seconds`. `_on_step` is called after the
    environment's step and before the update, so the time between two calls holds one of each.
    """

    def __init__(self, seconds: float):
        super().__init__()
        self.seconds = seconds
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
            if now - began >= self.probe_seconds:
                rate = (self.num_timesteps - first_step) / (now - began)
                self.timed_steps = max(1, round(rate * self.seconds))
                self.timed_from = (self.num_timesteps, time.perf_counter())
        elif self.num_timesteps >= WARM_UP_STEPS:
            self.probe_from = (self.num_timesteps, now)
        return True


def measure(algorithm: type, options: argparse.Namespace, packages: tuple[str, ...]) -> dict:
    """Trains `algorithm` (a DDPG class with SB3's interface) and returns what the JSON line holds."""
    torch.set_num_threads(options.threads)
    env = gymnasium.make("Pendulum-v1")
    actions = env.action_space.shape
    model = algorithm(
        "MlpPolicy",
        env,
        learning_rate=1e-3,
        buffer_size=options.capacity,
        learning_starts=100,
        batch_size=options.batch,
        tau=0.005,
        gamma=0.99,
        train_freq=1,
        gradient_steps=1,
        action_noise=NormalActionNoise(np.zeros(actions), np.full(actions, 0.1)),
        policy_kwargs={"net_arch": list(options.hidden)},
        seed=options.seed,
        device="cpu",
    )
    stopwatch = Stopwatch(options.seconds)
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
    options = arguments(__doc__)
    print(json.dumps(measure(DDPG, options, ("stable-baselines3", "torch", "gymnasium", "numpy"))))


if __name__ == "__main__":
    main()
