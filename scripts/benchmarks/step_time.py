"""Where the time of a training step goes, and how far that is from its floor.

    python scripts/benchmarks/step_time.py                        every table, some four minutes on two cores
    python scripts/benchmarks/step_time.py --tables start         one of: device host capacity start

DDPG on Pendulum-v1, one update a step, on the CPU: the benchmark's own program (`peers/rlresearch_loop.py`).
Each measurement is a process of its own, and each figure the median of five.

- device: the compiled loop. `floor` is the same program's matrix products and nothing else, in a loop of their own.
- host: around Gymnasium's own environment. An empty compiled call is what TensorFlow takes to call anything.
- capacity: neither time nor memory may grow with the replay's capacity, but for the rows themselves.
- start: from the start of the process to the first update, the compile cache empty and filled.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"[64, 64], batch 128": (64, 128), "[256, 256], batch 256": (256, 256)}
CAPACITIES = (10_000, 100_000, 1_000_000)
ROW_BYTES = 4 * (3 + 1 + 1 + 3) + 2  # observation, action, reward, next observation, two flags
CHUNK = 1_000  # iterations of one call, as in training
STARTED = "RLRESEARCH_STEP_TIME_STARTED"  # the clock at a process's start, for `start`


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--measure", choices=MEASUREMENTS, help=argparse.SUPPRESS)  # what the own processes do
    parser.add_argument("--units", type=int, default=64, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=128, help=argparse.SUPPRESS)
    parser.add_argument("--capacity", type=int, default=100_000, help=argparse.SUPPRESS)
    parser.add_argument("--runner", default="device", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(MEASUREMENTS[options.measure](options)))
        return 0
    console = Console(soft_wrap=True, highlight=False)
    console.width = max(console.width, 110)  # a terminal that is narrower wraps lines, which reads better than cut ones
    for name in options.tables:
        console.print(TABLES[name]())
    return 0


# The tables, in the first process.


def device_table() -> Table:
    table = _table("device: microseconds a step", "", *SIZES)
    found = [measured("device", "--units", str(units), "--batch", str(batch)) for units, batch in SIZES.values()]
    rows = {
        "environment with random actions, storing": "silent",
        "acting, drawing a batch, learning from it": "learning",
        f"call from Python, spread over {CHUNK:,} steps": "dispatch",
        "whole step": "whole",
        "floor: its matrix products alone": "floor",
    }
    for label, key in rows.items():
        table.add_row(label, *(f"{each[key]:.1f}" for each in found))
    rates = (each["flop"] / each["floor"] / 1e3 for each in found)
    table.add_row("arithmetic of the products, GFLOP/s", *(f"{rate:.1f}" for rate in rates))
    table.add_row("whole step / floor", *(f"{each['whole'] / each['floor']:.2f}" for each in found))
    return table


def host_table() -> Table:
    table = _table("host: microseconds a step, [64, 64], batch 128", "", "")
    found = measured("host")
    rows = {
        "Gymnasium's Pendulum-v1 by itself": "gymnasium",
        "checks, rescaling, seeds, packing": "adapter",
        "an empty compiled call": "empty",
        "storing, learning and acting, in that call": "arithmetic",
        "the rest: Python, caches gone cold between the two": "rest",
        "whole step": "whole",
    }
    for label, key in rows.items():
        table.add_row(label, f"{found[key]:.1f}")
    return table


def capacity_table() -> Table:
    headings = ("rows", "device, us a step", "host, us a step", "memory", "of it rows")
    table = _table("capacity: [64, 64], batch 128", *headings)
    for capacity in CAPACITIES:
        found = [measured("capacity", "--capacity", str(capacity), "--runner", runner) for runner in ("device", "host")]
        mib = [each["memory"] / 2**20 for each in found]
        times = [f"{each['step']:.1f}" for each in found]
        table.add_row(f"{capacity:,}", *times, f"{mib[0]:.0f} MiB", f"{capacity * ROW_BYTES / 2**20:.0f} MiB")
    return table


def start_table() -> Table:
    table = _table("start: seconds", "compile cache", "import tensorflow", "compile", "first update", "ratio to both")
    with tempfile.TemporaryDirectory() as folder:
        for label, times in (("empty", 1), ("filled", 5)):
            runs = [measured("start", XDG_CACHE_HOME=folder) for _ in range(times)]
            found = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            ratio = found["update"] / (found["import"] + found["compile"])
            figures = (f"{found[key]:.1f}" for key in ("import", "compile", "update"))
            table.add_row(label, *figures, f"{ratio:.2f}")
    return table


TABLES = {"device": device_table, "host": host_table, "capacity": capacity_table, "start": start_table}


def measured(measurement: str, *more: str, **variables: str) -> dict[str, Any]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--measure", measurement, *more]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "-1", STARTED: repr(time.time())}
    done = subprocess.run(command, env=environment | variables, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_header=any(columns))
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table


# The measurements, in microseconds unless they say otherwise.


def device(options: argparse.Namespace) -> dict[str, float]:
    runner = _runner(options)
    whole = _median(lambda: _advance(runner, CHUNK)) / CHUNK
    dispatch = (_median(lambda: runner.advance(1, False), 200) - whole) / CHUNK
    silent_runner = _runner(options, learning_starts=2**40)
    silent = _median(lambda: _advance(silent_runner, CHUNK)) / CHUNK - dispatch
    floor, flop = products(options.units, options.batch)
    learning = whole - silent - dispatch
    parts = {"silent": silent, "learning": learning, "dispatch": dispatch}
    return parts | {"whole": whole, "floor": floor, "flop": flop}


def host(options: argparse.Namespace) -> dict[str, float]:
    import gymnasium as gym
    import tensorflow as tf

    options.runner = "host"
    runner = _runner(options)
    whole = _median(lambda: _advance(runner, CHUNK)) / CHUNK
    env = gym.make("Pendulum-v1")
    env.reset(seed=0)
    action = env.action_space.sample()
    gymnasium = _median(lambda: env.reset() if env.step(action)[3] else None, CHUNK)
    # The very parts of `HostRunner.advance`, one at a time.
    from rlresearch.runners.host import _packed

    adapted = _median(lambda: tf.constant(_packed(runner._env.step(runner._action))), CHUNK)
    packed = tf.constant(_packed(runner._env.step(runner._action)))
    step = runner._transit(True, True)
    called = _median(lambda: step(packed).numpy(), CHUNK)
    nothing = tf.function(lambda packed: packed[:, :1] + 1.0, jit_compile=True).get_concrete_function(packed)
    empty = _median(lambda: nothing(packed).numpy(), CHUNK)
    parts = {"gymnasium": gymnasium, "adapter": adapted - gymnasium, "empty": empty, "arithmetic": called - empty}
    return parts | {"rest": whole - adapted - called, "whole": whole}


def capacity(options: argparse.Namespace) -> dict[str, float]:
    """`memory` in bytes: what this process came to use over what TensorFlow alone does."""
    _prepared()
    before = _peak_bytes()
    runner = _runner(options)
    step = _median(lambda: _advance(runner, CHUNK)) / CHUNK
    return {"step": step, "memory": _peak_bytes() - before}


def start(options: argparse.Namespace) -> dict[str, float]:
    """Seconds, of the default run. `update`: since this process was started."""
    from rlresearch.config.compose import compose
    from rlresearch.runtime import devices
    from rlresearch.training.experiment import plan

    made = plan(compose([]).config)
    took = {"import": _seconds(lambda: devices.prepare("cpu", None, deterministic=False, compile_cache=True))}
    runner = made.runner.start(made.trainer, made.task, 0)
    first, second = (_seconds(lambda: _advance(runner, 1)) for _ in range(2))
    took["compile"] = first - second
    _advance(runner, made.trainer.learning_start_iteration - 1)  # with the two above, the first update is among them
    return took | {"update": time.time() - float(os.environ[STARTED])}


MEASUREMENTS = {"device": device, "host": host, "capacity": capacity, "start": start}


def products(units: int, batch: int) -> tuple[float, float]:
    """Microseconds and floating-point operations of the matrix products of one DDPG update.

    They are multiplied in the order of the update. All is zero, which is as fast as any number, but comes out of a
    variable, so that XLA cannot know.
    """
    import tensorflow as tf

    actor, critic = (3, units, units, 1), (4, units, units, 1)

    def forward(weights, x):
        seen = [x]
        for weight in weights:
            seen.append(tf.matmul(seen[-1], weight))
        return seen

    def backward(weights, seen, to_input, to_weights):
        gradient, gradients = seen[-1], []
        for index in reversed(range(len(weights))):
            if to_weights:
                gradients.append(tf.matmul(seen[index], gradient, transpose_a=True))
            if index or to_input:
                gradient = tf.matmul(gradient, weights[index], transpose_b=True)
        return gradients[::-1], gradient

    def update(observed, actor_w, critic_w, target_actor_w, target_critic_w):
        widened = lambda action: tf.concat([observed, action], axis=1)  # noqa: E731
        target = forward(target_critic_w, widened(forward(target_actor_w, observed)[-1]))[-1]
        seen = forward(critic_w, widened(target))
        critic_w, _ = backward(critic_w, seen, to_input=False, to_weights=True)
        acted = forward(actor_w, observed)
        seen = forward(critic_w, widened(acted[-1]))
        _, gradient = backward(critic_w, seen, to_input=True, to_weights=False)
        actor_w, _ = backward(actor_w, [*acted[:-1], gradient[:, 3:]], to_input=False, to_weights=True)
        return observed + target, actor_w, critic_w, target_actor_w, target_critic_w

    weights = [[tf.zeros(pair) for pair in zip(sizes, sizes[1:])] for sizes in (actor, critic) * 2]
    variables = tf.nest.map_structure(tf.Variable, (tf.zeros((batch, 3)), *weights))

    @tf.function(jit_compile=True, autograph=False)
    def loop():
        state = tf.nest.map_structure(lambda variable: variable.read_value(), variables)
        state = tf.while_loop(lambda i, *_: i < CHUNK, lambda i, *s: (i + 1, *update(*s)), (0, *state))[1:]
        tf.nest.map_structure(lambda variable, value: variable.assign(value), variables, tuple(state))

    # Forwards, gradients of weights, gradients of inputs: the first layer's of these only where the actor needs it.
    of_actor, of_critic = (sum(a * b for a, b in zip(sizes, sizes[1:])) for sizes in (actor, critic))
    multiplied = 4 * of_actor - 3 * units + 6 * of_critic - 4 * units
    return _median(loop) / CHUNK, 2.0 * batch * multiplied


def _prepared() -> None:
    from rlresearch.runtime import devices

    devices.prepare("cpu", 1, deterministic=False, compile_cache=False)


def _runner(options: argparse.Namespace, learning_starts: int | None = None) -> Any:
    """The benchmark's runner, learning, or never learning."""
    _prepared()
    sys.path.append(str(Path(__file__).parent / "peers"))
    import rlresearch_loop
    import work

    given = work.DDPG(hidden=(options.units,) * 2, batch=options.batch, capacity=options.capacity)
    if learning_starts:
        given = dataclasses.replace(given, learning_starts=learning_starts)
    runner, _ = rlresearch_loop.started(given, options.runner)
    _advance(runner, 1_500)
    return runner


def _advance(runner: Any, iterations: int) -> None:
    """Runs and waits until it is done."""
    runner.advance(iterations, False)
    runner.metrics()


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _median(call: Callable[[], Any], times: int = 1) -> float:
    """Microseconds of one call, the median of five tries of so many calls each, after one more that is not counted."""
    tries = [_seconds(lambda: [call() for _ in range(times)]) / times for _ in range(6)]
    return statistics.median(tries[1:]) * 1e6


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
