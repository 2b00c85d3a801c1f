"""Steps per second of rlresearch's DDPG on Pendulum-v1, as one JSON line.

Our side of `scripts/benchmark.py`: run under the project's own interpreter, a process per measurement like the peers.

    python scripts/peers/rlresearch_loop.py --runner device --hidden 64 64 --batch 128 --seconds 10 --threads 1

The runners:

- `device`: one compiled program with our own Pendulum in it;
- `host`: a Python loop around Gymnasium's Pendulum-v1, one call of the compiled step per environment step;
- `population`: the device program mapped over `--members` seeds; its steps are member-steps.

It must do what the peers do, or the ratios mean nothing: one update per environment step; actor obs-h-h-1 with tanh,
critic [obs, action]-h-h-1, relu between; Gaussian noise 0.1 in [-1, 1]; replay of `--capacity` rows, drawn uniformly
with replacement; Adam at 1e-3 and a Polyak step of 0.005 for both networks at every update; gamma 0.99. The timed
region starts when learning has started and everything is compiled, and holds a fixed number of steps that a short probe
chose to last about `--seconds`.

It prints one JSON object on the last line of its output:

- `steps_per_second`: environment steps (summed over members) per second of the timed region;
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

from rlresearch import hardware
from rlresearch.algos.ddpg import DDPG
from rlresearch.buffers import Uniform
from rlresearch.envs.pendulum import Pendulum
from rlresearch.envs.task import Task
from rlresearch.networks import MLP
from rlresearch.noise import Gaussian
from rlresearch.optim import Adam
from rlresearch.runners.device import DeviceRunner
from rlresearch.runners.host import HostRunner
from rlresearch.runners.population import PopulationRunner
from rlresearch.trainer import Trainer

LEARNING_STARTS = 1_000
ROW_EVERY = 1_000  # iterations between metrics rows, as in training


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runner", choices=("device", "host", "population"), default="device")
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 64], help="units of each hidden layer")
    parser.add_argument("--batch", type=int, default=128, help="transitions in each update")
    parser.add_argument("--members", type=int, default=1, help="independent runs at once, for --runner population")
    parser.add_argument("--capacity", type=int, default=100_000, help="transitions that each replay buffer holds")
    parser.add_argument("--seconds", type=float, default=10.0, help="about how long the timed region lasts")
    parser.add_argument("--threads", type=int, default=1, help="threads for TensorFlow")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def measure(options: argparse.Namespace) -> dict:
    """Trains and returns what the JSON line holds."""
    hardware.prepare("cpu", options.threads, deterministic=False, compile_cache=False)
    runner, compile_seconds = started(options)
    runner.advance(LEARNING_STARTS, False)
    iterations = math.ceil(options.seconds * probed(runner, min(1.0, options.seconds / 5)))
    seconds = timed(runner, iterations)
    steps = iterations * len(runner.members)
    returns = [row["train/return"] for row in runner.rows() if not math.isnan(row["train/return"])]
    return {
        "steps_per_second": steps / seconds,
        "steps": steps,
        "seconds": seconds,
        "threads": options.threads,
        "mean_return": sum(returns) / len(returns) if returns else None,
        "versions": {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "gymnasium")},
        "compile_seconds": compile_seconds,
    }


def started(options: argparse.Namespace):
    """A runner that has compiled, and the seconds that took."""
    task = Task("Pendulum-v1", physics=Pendulum())
    hidden = tuple(options.hidden)
    algo = DDPG(
        task.spec,
        actor=MLP(hidden, output_activation="tanh"),
        critic=MLP(hidden),
        optimizer=Adam(1e-3),
        noise=Gaussian(0.1),
        batch_size=options.batch,
        learning_starts=LEARNING_STARTS,
    )
    trainer = Trainer(algo, Uniform(options.capacity))
    began = time.perf_counter()
    if options.runner == "population":
        runner = PopulationRunner(trainer, task, range(options.seed, options.seed + options.members))
    else:
        runner = {"device": DeviceRunner, "host": HostRunner}[options.runner](trainer, task, options.seed)
    runner.advance(1, True)
    return runner, time.perf_counter() - began


def probed(runner, seconds: float) -> float:
    """Iterations per second, over at least so many seconds."""
    iterations, took = 0, 0.0
    while took < seconds:
        iterations, took = iterations + 100, took + timed(runner, 100)
    return iterations / took


def timed(runner, iterations: int) -> float:
    """Seconds that so many iterations take, metrics rows read as in training."""
    began = time.perf_counter()
    for done in range(0, iterations, ROW_EVERY):
        runner.advance(min(ROW_EVERY, iterations - done), True)
        rows = runner.rows()
    assert rows
    return time.perf_counter() - began


def main() -> None:
    print(json.dumps(measure(arguments())))


if __name__ == "__main__":
    main()
