"""Steps per second of sbx (Stable-Baselines3 on JAX) on one of the benchmark's tasks, as one JSON line.

Run in the peers' own environment (see `benchmark.py`). Settings, timed region and output are those of `sb3.py`.
"""

import json
import os
import sys

# This file has the name of the library that it measures: with its folder last, `import sbx` finds the library.
sys.path.append(sys.path.pop(0))

from sb3 import measure
from work import arguments


def main() -> None:
    options = arguments(__doc__).parse_args()
    # JAX reads the platform when it is imported, the others when it starts its CPU client.
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["PJRT_NPROC"] = str(options.threads)
    if options.threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    import sbx

    packages = ("sbx-rl", "jax", "jaxlib", "flax", "optax", "stable-baselines3", "torch", "gymnasium", "numpy")
    print(json.dumps(measure(sbx, options, packages)))


if __name__ == "__main__":
    main()
