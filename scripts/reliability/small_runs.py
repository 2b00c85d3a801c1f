"""Every shipped algorithm as a command that trains in seconds, on each runner, with the code of any checkout."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_ACTOR = ["network.actor.hidden=[8]", "network.critic.hidden=[8]"]
_Q = ["env=cartpole", "network.q.hidden=[8]"]
_REPLAY = ["algo.batch_size=8", "algo.learning_starts=32", "buffer.capacity=64"]

ALGORITHMS = {  # each in an environment that it can learn in
    "a2c": ["env=pendulum", *_ACTOR],
    "c51": [*_Q, *_REPLAY, "algo.v_min=0", "algo.v_max=20", "algo.atoms=11"],
    "ddpg": ["env=pendulum", *_ACTOR, *_REPLAY],
    "discrete_sac": ["env=cartpole", *_ACTOR, *_REPLAY],
    "double_q_learning": ["env=frozen_lake"],
    "dqn": [*_Q, *_REPLAY],
    "expected_sarsa": ["env=frozen_lake"],
    "online_q": [*_Q],
    "ppo": ["env=pendulum", *_ACTOR, "algo.rollout_steps=16", "algo.epochs=2", "algo.minibatches=2"],
    "q_learning": ["env=frozen_lake"],
    "qr_dqn": [*_Q, *_REPLAY, "algo.quantiles=8"],
    "sac": ["env=pendulum", *_ACTOR, *_REPLAY],
    "sarsa": ["env=frozen_lake"],
    "td3": ["env=pendulum", *_ACTOR, *_REPLAY],
}
RUNNERS = {
    "device": ["runner=device"],
    "host": ["runner=host"],
    "population": ["runner=population", "runner.seeds=2"],
}
QUIET = ["tuned=none", "device=cpu", "compile_cache=false", "logger.console=none", "eval.workers=1"]


def commands() -> dict[str, list[str]]:
    """Overrides by `ALGORITHM_RUNNER`; how long a run is must be added."""
    return {
        f"{algo}_{runner}": [f"algo={algo}", *own, *how, *QUIET]
        for algo, own in ALGORITHMS.items()
        for runner, how in RUNNERS.items()
    }


def use(checkout: Path, plain: bool) -> None:
    """Makes this process one that imports rlresearch from a checkout. plain: its loops are graphs, not XLA programs."""
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    # Not an installed one: Hydra's plugins are looked for in every folder of the path.
    sys.path[:] = [
        str(checkout),
        *(each for each in sys.path if not (Path(each or ".") / "rlresearch" / "__init__.py").is_file()),
    ]
    if plain:
        import tensorflow as tf

        function = tf.function
        tf.function = lambda *args, jit_compile=None, **kwargs: function(*args, **kwargs)
    import rlresearch

    if not Path(rlresearch.__file__).is_relative_to(checkout):
        raise ImportError(f"rlresearch is imported from {rlresearch.__file__}, not from {checkout}")
