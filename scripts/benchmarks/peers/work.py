"""What each task of the benchmark is, to the last setting: all sides read it here, so that all do the same work.

Only the standard library is imported, as the sides run in two environments. Sizes that the command line does not
change, and what no side could do in another way, stand in the classes; `arguments` reads the others.
"""

import argparse
import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class DDPG:
    """DDPG (Lillicrap et al. 2016, Algorithm 1) on Pendulum-v1, one update a step.

    Actor obs-hidden-1 with tanh, critic [obs, action]-hidden-1, relu between; Gaussian noise in units of half the
    action range; a replay of `capacity` rows, drawn uniformly with replacement; Adam at `lr` and a Polyak step of
    `tau` for both networks at every update.
    """

    env: str = "Pendulum-v1"
    hidden: tuple[int, ...] = (64, 64)
    batch: int = 128
    capacity: int = 100_000
    num_envs: int = 1
    period: int = 1
    """Environment steps, all environments together, after which the pattern of acting and learning begins again."""
    learning_starts: int = 1_000
    gamma: float = 0.99
    tau: float = 0.005
    lr: float = 1e-3
    noise: float = 0.1


@dataclass(frozen=True)
class PPO:
    """PPO (Schulman et al. 2017, Algorithm 1) on CartPole-v1, with the settings of PureJaxRL's example.

    Rollouts of `steps` steps in each of `num_envs` environments, of which `epochs` are made in so many `minibatches`,
    each dealing all rows out anew. Policy and value share no layers; tanh between, orthogonal initial kernels with
    gains sqrt(2) inside, 0.01 for the policy's and 1 for the value's last layer. Values are clipped like the policy,
    advantages standardized in each minibatch, gradients clipped to a global norm. The loss is the clipped objective,
    `value_weight` times the mean squared error and minus `entropy_weight` times the entropy. The example lets the
    learning rate fall to zero over its run; here there is no end of the run, and it stays.
    """

    env: str = "CartPole-v1"
    hidden: tuple[int, ...] = (64, 64)
    num_envs: int = 4
    steps: int = 128
    epochs: int = 4
    minibatches: int = 4
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    value_weight: float = 0.25  # of the mean square: the example has 0.5 of half of it
    entropy_weight: float = 0.01
    lr: float = 2.5e-4
    adam_eps: float = 1e-5
    max_grad_norm: float = 0.5

    @property
    def period(self) -> int:
        return self.steps * self.num_envs


@dataclass(frozen=True)
class DQN:
    """DQN (Mnih et al. 2015, Algorithm 1) on CartPole-v1, with the settings of the RL Baselines3 Zoo.

    After every `update_every` steps come `updates` gradient steps, then the target is copied from the network. relu
    between layers, Huber's error, Adam, gradients clipped to a global norm. What is timed is the time after the
    Zoo's exploration has come down to `epsilon`, so nearly every step asks the network.
    """

    env: str = "CartPole-v1"
    hidden: tuple[int, ...] = (256, 256)
    batch: int = 64
    capacity: int = 100_000
    num_envs: int = 1
    learning_starts: int = 1_000
    update_every: int = 256
    updates: int = 128
    gamma: float = 0.99
    epsilon: float = 0.04
    lr: float = 2.3e-3
    max_grad_norm: float = 10.0

    @property
    def period(self) -> int:
        return self.update_every


TASKS = {"ddpg": DDPG(), "ppo": PPO(), "dqn": DQN()}


def arguments(description: str, algos: tuple[str, ...] = tuple(TASKS)) -> argparse.ArgumentParser:
    """The command line that all sides share; `chosen` reads its task off."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--algo", choices=algos, default=algos[0])
    parser.add_argument("--hidden", type=int, nargs="+", help="units of each hidden layer")
    parser.add_argument("--batch", type=int, help="transitions in each update from replay")
    parser.add_argument("--capacity", type=int, help="transitions that each replay holds")
    parser.add_argument("--seconds", type=float, default=10.0, help="about how long the timed region lasts")
    parser.add_argument("--threads", type=int, default=1, help="threads for the numerical library")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def chosen(options: argparse.Namespace) -> DDPG | PPO | DQN:
    """The task of `--algo` with the sizes that the command line gives; ValueError where it has no such size."""
    task = TASKS[options.algo]
    given = {name: getattr(options, name) for name in ("hidden", "batch", "capacity")}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if not hasattr(task, name):
            raise ValueError(f"--algo {options.algo} has no --{name}")
    if "hidden" in given:
        given["hidden"] = tuple(given["hidden"])
    return dataclasses.replace(task, **given)
