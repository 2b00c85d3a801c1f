"""Steps per second of sbx's DDPG (Stable-Baselines3 on JAX) on Pendulum-v1, as one JSON line.

Run in the peers' own environment (see `scripts/benchmark.py`). Settings, timed region and output are those of `sb3.py`.
"""

import json
import os
import sys

# This file has the name of the library that it measures: look in its folder last, so that `import sbx` finds the library.
sys.path.append(sys.path.pop(0))

from sb3 import arguments, measure  # noqa: E402


def main() -> None:
    options = arguments(__doc__)
    # Both are read when JAX starts its CPU client, so they come before the import.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if options.threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
        os.environ["PJRT_NPROC"] = "1"
    from sbx import DDPG

    packages = ("sbx-rl", "jax", "jaxlib", "flax", "optax", "stable-baselines3", "torch", "gymnasium", "numpy")
    print(json.dumps(measure(DDPG, options, packages)))


if __name__ == "__main__":
    main()
