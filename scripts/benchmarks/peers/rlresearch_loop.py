"""Steps per second of rlresearch on one of the benchmark's tasks, as one JSON line.

Our side of `benchmark.py`: run under the project's own interpreter, a process per measurement like the peers.

    python scripts/benchmarks/peers/rlresearch_loop.py --algo ppo --runner device --seconds 10 --threads 1

The runners:

- `device`: one compiled program with our own environment in it;
- `host`: a Python loop around Gymnasium's environment, one call of the compiled step per environment step;
- `population`: the device program mapped over `--members` seeds; its steps are member-steps.

What is done stands in `work.py`, for us and for the peers. The timed region starts when learning has started and
everything is compiled, and holds a fixed number of steps that a short probe chose to last about `--seconds`, rounds
of acting and learning being whole.

It prints one JSON object on the last line of its output:

- `steps_per_second`: environment steps (summed over environments and members) per second of the timed region;
- `steps`, `seconds`: the region itself;
- `threads`: as asked;
- `mean_return`: of the latest episodes, so that a fast run that does not learn is seen; null if none ended in time;
- `versions`: the packages that matter, by name;
- `compile_seconds`: if known.
"""

import argparse
import importlib.metadata
import json
import math
import time

import work

from rlresearch.algos.ddpg import DDPG
from rlresearch.algos.dqn import DQN
from rlresearch.algos.ppo import PPO
from rlresearch.buffers import Rollout, Uniform
from rlresearch.envs.cartpole import CartPole
from rlresearch.envs.pendulum import Pendulum
from rlresearch.envs.task import Task
from rlresearch.networks import MLP
from rlresearch.noise import EpsilonGreedy, Gaussian
from rlresearch.optim import Adam
from rlresearch.runners.device import DeviceRunner
from rlresearch.runners.host import HostRunner
from rlresearch.runners.population import PopulationRunner
from rlresearch.runners.step import TrainingStep
from rlresearch.runtime import devices

ROW_EVERY = 1_000  # iterations between metrics rows, made up to whole rounds of learning


def arguments() -> argparse.Namespace:
    parser = work.arguments(__doc__)
    parser.add_argument("--runner", choices=("device", "host", "population"), default="device")
    parser.add_argument("--members", type=int, default=1, help="independent runs at once, for --runner population")
    return parser.parse_args()


def measure(options: argparse.Namespace) -> dict:
    """Trains and returns what the JSON line holds."""
    devices.prepare("cpu", options.threads, deterministic=False, compile_cache=False)
    given = work.chosen(options)
    runner, compile_seconds = started(given, options.runner, options.members, options.seed)
    period = given.period // given.num_envs
    row_every = -(-ROW_EVERY // period) * period
    runner.advance(-(-getattr(given, "learning_starts", 0) // row_every) * row_every, False)
    rate = probed(runner, row_every, min(1.0, options.seconds / 5))
    iterations = math.ceil(options.seconds * rate / period) * period
    seconds = timed(runner, iterations, row_every)
    steps = iterations * given.num_envs * len(runner.members)
    returns = [row["train/return"] for row in runner.metrics() if not math.isnan(row["train/return"])]
    return {
        "steps_per_second": steps / seconds,
        "steps": steps,
        "seconds": seconds,
        "threads": options.threads,
        "mean_return": sum(returns) / len(returns) if returns else None,
        "versions": {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "gymnasium")},
        "compile_seconds": compile_seconds,
    }


def ddpg(given: work.DDPG) -> tuple[TrainingStep, Task]:
    task = Task(given.env, physics=Pendulum())
    algo = DDPG(
        task.spec,
        actor=MLP(given.hidden, output_activation="tanh"),
        critic=MLP(given.hidden),
        optimizer=Adam(given.lr),
        noise=Gaussian(given.noise),
        gamma=given.gamma,
        tau=given.tau,
        batch_size=given.batch,
        learning_starts=given.learning_starts,
    )
    return TrainingStep(algo, Uniform(given.capacity)), task


def ppo(given: work.PPO) -> tuple[TrainingStep, Task]:
    task = Task(given.env, physics=CartPole(), num_envs=given.num_envs)
    net = {"hidden": given.hidden, "activation": "tanh", "kernel_initializer": "orthogonal(1.4142)"}
    algo = PPO(
        task.spec,
        actor=MLP(**net, output_initializer="orthogonal(0.01)"),
        critic=MLP(**net, output_initializer="orthogonal(1.0)"),
        optimizer=Adam(given.lr, eps=given.adam_eps, max_grad_norm=given.max_grad_norm),
        gamma=given.gamma,
        gae_lambda=given.gae_lambda,
        rollout_steps=given.steps,
        epochs=given.epochs,
        minibatches=given.minibatches,
        clip=given.clip,
        value_clip=given.clip,
        value_weight=given.value_weight,
        entropy_weight=given.entropy_weight,
    )
    return TrainingStep(algo, Rollout(algo.batch_size)), task


def dqn(given: work.DQN) -> tuple[TrainingStep, Task]:
    task = Task(given.env, physics=CartPole())
    algo = DQN(
        task.spec,
        q=MLP(given.hidden),
        optimizer=Adam(given.lr, max_grad_norm=given.max_grad_norm),
        noise=EpsilonGreedy(given.epsilon),
        gamma=given.gamma,
        target_every=given.updates,
        batch_size=given.batch,
        learning_starts=given.learning_starts,
        update_every=given.update_every,
        updates=given.updates,
    )
    return TrainingStep(algo, Uniform(given.capacity)), task


MADE_BY = {work.DDPG: ddpg, work.PPO: ppo, work.DQN: dqn}


def started(given: work.DDPG | work.PPO | work.DQN, runner: str, members: int = 1, seed: int = 0):
    """A runner that has compiled, and the seconds that took."""
    trainer, task = MADE_BY[type(given)](given)
    began = time.perf_counter()
    if runner == "population":
        made = PopulationRunner(trainer, task, range(seed, seed + members))
    else:
        made = {"device": DeviceRunner, "host": HostRunner}[runner](trainer, task, seed)
    made.advance(1, True)
    return made, time.perf_counter() - began


def probed(runner, row_every: int, seconds: float) -> float:
    """Iterations per second, over at least so many seconds."""
    iterations, took = 0, 0.0
    while took < seconds:
        iterations, took = iterations + row_every, took + timed(runner, row_every, row_every)
    return iterations / took


def timed(runner, iterations: int, row_every: int) -> float:
    """Seconds that so many iterations take, metrics rows read as in training."""
    began = time.perf_counter()
    for done in range(0, iterations, row_every):
        runner.advance(min(row_every, iterations - done), True)
        rows = runner.metrics()
    assert rows
    return time.perf_counter() - began


def main() -> None:
    print(json.dumps(measure(arguments())))


if __name__ == "__main__":
    main()
