"""Trains on the GPU: how fast, in how much memory, and whether it agrees with the CPU.

    python scripts/benchmarks/gpu_check.py  one run, and populations of 1, 8, 64 and 512; some minutes
    python scripts/benchmarks/gpu_check.py --members 8 --hidden 256 256 --batch 256
    python scripts/benchmarks/gpu_check.py --json                one JSON object instead of the table
    python scripts/benchmarks/gpu_check.py --device cpu --members 1 2 --steps 50    the same code without a GPU

The program is the benchmark's: DDPG on Pendulum-v1, one update a step (`peers/rlresearch_loop.py`). Each
measurement is a process of its own, with a time limit, so that its memory is its own and a size that does not fit
costs only itself. Speeds are taken once learning has begun and everything is compiled; member-steps for a population.

Agreement is between two processes with one seed, TF32 off, one on the CPU: the actions of the random start must be
equal to the bit, since the random numbers are integer arithmetic; after 50 updates the parameters may differ by
rounding, and `CLOSE` says how much. (Learning multiplies it: two ways of rounding on one CPU were 3e-6 apart after
10 updates, 4e-4 after 50 and 4e-2 after 300.)

Exit code 0 where everything agrees, where a size does not fit into memory (the table says so), and where there is no
GPU (one line says so); 1 where a measurement failed or the devices disagree; 2 for a wrong command.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
UPDATES = 50  # of the agreement runs, after the random start
CLOSE = 0.01  # of two sets of parameters: the norm of their difference over the norm of one
_OUT_OF_MEMORY = re.compile(r"out of memory|\bOOM\b|RESOURCE_EXHAUSTED|ResourceExhausted|MemoryError", re.IGNORECASE)


def main() -> int:
    """Measures and prints; see above for the exit code."""
    options = arguments()
    if options.measure:
        print(json.dumps(MEASUREMENTS[options.measure](options)))
        return 0
    found = measured(options, "device", options.device)
    if "failure" not in found and options.device == "gpu" and found["device"] == "cpu":
        why = "TensorFlow finds no GPU here: nothing was measured (--device cpu tries the same code on the CPU)."
        print(json.dumps({"device": None, "reason": why}) if options.json else why)
        return 0
    report = found | {"measurements": list(speeds(options)), "agreement": agreement(options)}
    report |= {"hidden": options.hidden, "batch": options.batch}
    if options.json:
        print(json.dumps(report))
    else:
        show(report)
    failures = [each["failure"] for each in [found, *report["measurements"]] if "failure" in each]
    return 0 if report["agreement"].get("agrees") and all(map(_OUT_OF_MEMORY.search, failures)) else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--members", type=_count, nargs="+", default=[1, 8, 64, 512], help="sizes of populations")
    parser.add_argument("--steps", type=_count, default=2_000, help="iterations that are timed")
    parser.add_argument("--hidden", type=_count, nargs="+", default=[64, 64], help="units of each hidden layer")
    parser.add_argument("--batch", type=_count, default=128, help="transitions in each update")
    parser.add_argument("--capacity", type=_count, default=100_000, help="transitions that each replay buffer holds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--time-limit", type=float, default=600.0, help="seconds for one measurement")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--measure", choices=MEASUREMENTS, help=argparse.SUPPRESS)  # what the own processes do
    parser.add_argument("--runner", choices=("device", "population"), default="device", help=argparse.SUPPRESS)
    parser.add_argument("--save", help=argparse.SUPPRESS)
    return parser.parse_args()


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number above 0")
    return int(text)


# In the first process, which never loads TensorFlow.


def speeds(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One run, then every population: what `speed` returns, or {"failure": why}, with `runner` and `members`."""
    for runner, members in [("device", 1), *(("population", each) for each in options.members)]:
        took = measured(options, "speed", options.device, "--runner", runner, "--members", str(members))
        yield {"runner": runner, "members": members} | took


def agreement(options: argparse.Namespace) -> dict[str, Any]:
    """The same seed on the CPU and on the device, compared: largest differences, and whether they are small enough."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        sides = {name: Path(folder) / f"{name}.npz" for name in ("reference", "device")}
        for name, device in (("reference", "cpu"), ("device", options.device)):
            ran = measured(options, "state", device, "--members", "1", "--save", str(sides[name]))
            if "failure" in ran:
                return ran | {"agrees": False}
        ours, theirs = (dict(np.load(sides[name])) for name in ("device", "reference"))
    apart = {name: float(np.max(np.abs(ours[name] - theirs[name]), initial=0.0)) for name in ours}
    relative = float(np.linalg.norm(ours["parameters"] - theirs["parameters"]) / np.linalg.norm(theirs["parameters"]))
    equal = bool(np.array_equal(ours["random_actions"], theirs["random_actions"]))
    compared = {"random_actions_equal": equal, "largest_difference": apart, "relative_difference": relative}
    return compared | {"updates": UPDATES, "agrees": equal and relative <= CLOSE}


def measured(options: argparse.Namespace, measurement: str, device: str, *more: str) -> dict[str, Any]:
    """What a measurement in a process of its own says, or {"failure": why} in a few words."""
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", measurement, "--device", device]
    for name in ("steps", "batch", "capacity", "seed"):
        command += [f"--{name}", str(getattr(options, name))]
    command += ["--hidden", *map(str, options.hidden), *more]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=options.time_limit, check=False
        )
    except subprocess.TimeoutExpired:
        return {"failure": f"not done after {options.time_limit:g} s"}
    if done.returncode == 0:
        return json.loads(done.stdout.strip().splitlines()[-1])
    if _OUT_OF_MEMORY.search(done.stderr):
        return {"failure": "out of memory"}
    if done.returncode == -signal.SIGKILL:
        return {"failure": "killed, as a machine does that is out of memory"}
    words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return {"failure": words[-1][:200]}


def show(report: dict[str, Any]) -> None:
    """The table, and a line on agreement below it."""
    work = f"DDPG on Pendulum-v1, nets {report['hidden']}, batch {report['batch']}"
    title = f"{work}: {report.get('device', 'no device')}"
    table = Table("run", "steps/s", "peak memory", "first step after", title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for each in report["measurements"]:
        name = "one run" if each["runner"] == "device" else f"population of {each['members']}"
        if "failure" in each:
            table.add_row(name, each["failure"], "", "")
        else:
            memory, compiling = f"{each['peak_bytes'] / 2**20:,.0f} MiB", f"{each['compile_seconds']:.1f} s"
            table.add_row(name, f"{each['steps_per_second']:,.0f}", memory, compiling)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(table)
    console.print(f"peak memory is {report.get('memory_of', 'unknown')}; TensorFlow {report.get('tensorflow', '?')}")
    console.print(agreement_line(report["agreement"]))
    if "failure" in report:
        console.print(f"failed: {report['failure']}")


def agreement_line(compared: dict[str, Any]) -> str:
    """What `agreement` found, in a sentence."""
    if "failure" in compared:
        return f"agreement with the CPU: failed, {compared['failure']}"
    start = "equal" if compared["random_actions_equal"] else "NOT EQUAL"
    parameters = f"{compared['relative_difference']:.1e} apart (at most {CLOSE:g})"
    verdict = "agrees" if compared["agrees"] else "DISAGREES"
    return f"{verdict} with the CPU: random-start actions {start}; parameters after {UPDATES} updates {parameters}"


# In a process for each measurement.


def device(options: argparse.Namespace) -> dict[str, Any]:
    """The device's name, `cpu` where there is no GPU, and what `peak_bytes` will be of."""
    from rlresearch.runtime import devices

    # Not `gpu`, which is an error where there is none.
    name = devices.prepare("cpu" if options.device == "cpu" else "auto", None, False, False)
    import tensorflow as tf

    of = "the whole process's, on the CPU" if name == "cpu" else "what TensorFlow allocated on the GPU"
    return {"device": name, "tensorflow": tf.__version__, "memory_of": of}


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Steps (of all members) per second, peak memory in bytes, and the seconds until the first step was done."""
    name = _prepared(options)
    runner, compiling, learning_starts = _started(options, options.runner, options.members[0])
    runner.advance(learning_starts, False)
    runner.metrics()  # compiled, and everything before it done, before the clock starts
    began = time.perf_counter()
    runner.advance(options.steps, True)
    (row, *_) = runner.metrics()
    seconds = time.perf_counter() - began
    if row["loss/critic"] != row["loss/critic"]:
        raise RuntimeError(f"the loss is not a number after {options.steps} steps")
    steps = options.steps * len(runner.members)
    return {"steps_per_second": steps / seconds, "peak_bytes": _peak(name), "compile_seconds": compiling}


def state(options: argparse.Namespace) -> dict[str, Any]:
    """Saves what a run did and learned to the file `--save`, float64."""
    import numpy as np

    _prepared(options)
    import tensorflow as tf

    from rlresearch import rng
    from rlresearch.buffers import Uniform
    from rlresearch.types import Progress

    tf.config.experimental.enable_tensor_float_32_execution(False)
    runner, _, learning_starts = _started(options, "device", 1)
    runner.advance(learning_starts - 1, False)  # `_started` did one; the next one learns
    progress = Progress(*(tf.zeros((), kind) for kind in (tf.int64, tf.float32, tf.int64)))
    # The same key draws the same rows on every device: integer arithmetic again.
    start = Uniform(options.capacity).sample(runner.state().buffer, rng.key(0), 4 * learning_starts, 1.0, progress)
    runner.advance(UPDATES, False)
    algo = runner.state().algo
    weights = [leaf.numpy().ravel() for leaf in tf.nest.flatten([algo.actor.trainable, algo.critic.trainable])]
    saved = {"random_actions": start.action.numpy(), "random_observations": start.obs.numpy()}
    saved |= {"parameters": np.concatenate(weights), "policy": runner.policy(start.obs.numpy()[None])}
    np.savez(options.save, **{name: value.astype(np.float64) for name, value in saved.items()})
    return {}


MEASUREMENTS = {"device": device, "speed": speed, "state": state}


def _prepared(options: argparse.Namespace) -> str:
    from rlresearch.runtime import devices

    return devices.prepare(options.device, None, deterministic=False, compile_cache=False)


def _started(options: argparse.Namespace, runner: str, members: int) -> tuple[Any, float, int]:
    """The benchmark's runner after its first step, the seconds that took, and when it begins to learn."""
    sys.path.append(str(ROOT / "scripts" / "benchmarks" / "peers"))
    import rlresearch_loop
    import work

    given = work.DDPG(hidden=tuple(options.hidden), batch=options.batch, capacity=options.capacity)
    return *rlresearch_loop.started(given, runner, members, options.seed), given.learning_starts


def _peak(name: str) -> int:
    if name == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    import tensorflow as tf

    return tf.config.experimental.get_memory_info("GPU:0")["peak"]


if __name__ == "__main__":
    sys.exit(main())
