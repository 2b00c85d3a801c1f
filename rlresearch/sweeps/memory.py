"""How much memory a member of a fused program takes, and how much there is."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess

import tensorflow as tf

from rlresearch import rng
from rlresearch.footprint import free_memory
from rlresearch.plan import Plan

# Measured with scripts/sweep_time.py: the state itself, and what saving and compiling it add.
COPIES = 2.0
SHARE = 0.6  # of what is free, for the sweep


def member_bytes(plan: Plan) -> int:
    """What one member is predicted to take: its state, replay included, and COPIES of it. One is made and let go."""
    from rlresearch.envs.device import DeviceEnv
    from rlresearch.runners.device import device_init

    state = device_init(plan.trainer, DeviceEnv(plan.task), rng.key(plan.settings.seed))
    return int(COPIES * sum(leaf.shape.num_elements() * leaf.dtype.size for leaf in tf.nest.flatten(state)))


def available_bytes() -> int:
    """What is free where programs run: on the GPU if there is one, else in this machine or container."""
    if tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
            command = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
            answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
            lines = answer.split()
            return int(lines[int(visible) if visible.isdigit() and int(visible) < len(lines) else 0]) << 20
    free = free_memory()
    return 4 << 30 if free is None else free


def peak_bytes() -> int:
    """The most that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
