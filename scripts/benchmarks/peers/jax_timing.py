"""The timed region of the compiled JAX loops, and the JSON line that they print."""

import argparse
import importlib.metadata
import json
import os
import time
from collections.abc import Callable

import jax


def prepare(threads: int) -> None:
    """JAX reads these when it starts its CPU client, which is at the first array and not at the import."""
    os.environ["PJRT_NPROC"] = str(threads)
    if threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    jax.config.update("jax_platforms", "cpu")


def report(options: argparse.Namespace, block: Callable[[], jax.Array], steps: int) -> None:
    """Times `block`, which trains for `steps` steps, all members together, and returns their mean return."""

    def blocks(count: int) -> tuple[float, float]:
        """The seconds that so many take, and the mean return in the last."""
        began = time.perf_counter()
        for _ in range(count):
            mean_return = block()
        mean_return.block_until_ready()
        return time.perf_counter() - began, float(mean_return)

    compile_seconds, _ = blocks(1)
    probe, (probe_seconds, _) = 1, blocks(1)
    while probe_seconds < min(1.0, options.seconds / 5):
        probe *= 2
        probe_seconds, _ = blocks(probe)
    count = max(1, round(options.seconds * probe / probe_seconds))
    elapsed, mean_return = blocks(count)
    figures = {
        "steps_per_second": count * steps / elapsed,
        "steps": count * steps,
        "seconds": elapsed,
        "compile_seconds": compile_seconds,
        "threads": options.threads,
        "mean_return": mean_return,
        "versions": {package: importlib.metadata.version(package) for package in ("jax", "jaxlib", "numpy")},
    }
    print(json.dumps(figures))
