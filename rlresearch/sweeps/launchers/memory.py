"""Predicts and measures the memory of a fused program, and finds the free memory."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import tensorflow as tf

from rlresearch import rng
from rlresearch.training.experiment import Plan
from rlresearch.training.resources import free_memory

# Memory of a member as a multiple of its state. Measured with scripts/benchmarks/sweep_time.py: the state, and the
# copies that saving and compiling add.
COPIES = 2.0
PROGRAM = 1 << 30  # bytes of a program that do not depend on its members: the compiler, evaluations, libraries
SHARE = 0.6  # the part of the free memory that a sweep may use


def member_bytes(plan: Plan) -> int:
    """Returns the predicted bytes of one member: COPIES times its state and replay. Makes one state to measure it."""
    from rlresearch.envs.device import DeviceEnv
    from rlresearch.runners.device import device_init

    state = device_init(plan.trainer, DeviceEnv(plan.task), rng.key(plan.settings.seed))
    return int(COPIES * sum(leaf.shape.num_elements() * leaf.dtype.size for leaf in tf.nest.flatten(state)))


def available_bytes() -> int:
    """Returns the free bytes of the GPU if there is one, else of this machine or container."""
    if tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
            command = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
            answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
            lines = answer.split()
            return int(lines[int(visible) if visible.isdigit() and int(visible) < len(lines) else 0]) << 20
    free = free_memory()
    return 4 << 30 if free is None else free


class Used:
    """Measures how much more memory this process uses while a program runs; on the GPU if there is one.

    used = Used(); ...; used.bytes()
    """

    def __init__(self) -> None:
        self._gpu = bool(tf.config.list_physical_devices("GPU"))
        if self._gpu:
            tf.config.experimental.reset_memory_stats("GPU:0")
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # resets the peak, VmHWM
        self._before = self._at("current", "VmRSS")

    def bytes(self) -> int:
        """Returns the peak since the start, in bytes; 0 where the system does not report it."""
        return max(self._at("peak", "VmHWM") - self._before, 0)

    def _at(self, of_gpu: str, of_process: str) -> int:
        if self._gpu:
            return tf.config.experimental.get_memory_info("GPU:0")[of_gpu]
        with contextlib.suppress(OSError, KeyError):
            lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            return int(lines[of_process].split()[0]) * 1024
        return 0
