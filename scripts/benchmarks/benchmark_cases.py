"""What `benchmark.py` measures: each case, its sides, and the ratio to each peer that we mean to reach."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Side:
    """One program to time. Equal sides of two cases are measured once and stand in both tables."""

    label: str
    script: str
    arguments: tuple[str, ...]

    @property
    def ours(self) -> bool:
        return self.script == "rlresearch_loop.py"


@dataclass(frozen=True)
class Case:
    """Our side, and each peer with the ratio (ours to theirs) that we mean to reach."""

    name: str
    work: str
    ours: Side
    targets: dict[Side, float]


def side(label: str, script: str, algo: str, *arguments: str, units: int = 0, batch: int = 0, members: int = 1) -> Side:
    """units, batch: 0 leaves the size to the task."""
    size = ("--hidden", str(units), str(units)) if units else ()
    size += ("--batch", str(batch)) if batch else ()
    size += ("--members", str(members)) if members > 1 else ()
    return Side(label, script, ("--algo", algo, *arguments, *size))


def rlresearch(runner: str, algo: str, **size: int) -> Side:
    return side(f"rlresearch, {runner}", "rlresearch_loop.py", algo, "--runner", runner, **size)


def sb3(algo: str, **size: int) -> Side:
    return side("Stable-Baselines3", "sb3.py", algo, **size)


def sbx(algo: str, **size: int) -> Side:
    return side("sbx", "sbx.py", algo, **size)


def jax_loop(algo: str, **size: int) -> Side:
    return side("JAX loop, vmap" if "members" in size else "JAX loop", f"jax_{algo}.py", algo, **size)


SMALL, LARGE = {"units": 64, "batch": 128}, {"units": 256, "batch": 256}

CASES = (
    Case(
        "device-64",
        "DDPG as one compiled program, nets [64, 64], batch 128",
        rlresearch("device", "ddpg", **SMALL),
        {sb3("ddpg", **SMALL): 15.0, sbx("ddpg", **SMALL): 8.0, jax_loop("ddpg", **SMALL): 1.0},
    ),
    Case(
        "device-256",
        "DDPG as one compiled program, nets [256, 256], batch 256",
        rlresearch("device", "ddpg", **LARGE),
        {sb3("ddpg", **LARGE): 5.0, sbx("ddpg", **LARGE): 2.0, jax_loop("ddpg", **LARGE): 1.0},
    ),
    Case(
        "host-64",
        "DDPG around Gymnasium's own Pendulum-v1 in a Python loop, nets [64, 64], batch 128",
        rlresearch("host", "ddpg", **SMALL),
        {sb3("ddpg", **SMALL): 4.0, sbx("ddpg", **SMALL): 2.0},
    ),
    Case(
        "population-32",
        "DDPG, 32 members at once, nets [64, 64], batch 128, member-steps",
        rlresearch("population", "ddpg", **SMALL, members=32),
        {jax_loop("ddpg", **SMALL, members=32): 1.0},
    ),
    Case(
        "ppo-cartpole",
        "PPO as one compiled program, 4 environments, 128 steps, 4 epochs of 4 minibatches, nets [64, 64]",
        rlresearch("device", "ppo"),
        {sb3("ppo"): 15.0, jax_loop("ppo"): 1.0},
    ),
    Case(
        "ppo-population-8",
        "the same PPO, 8 members at once, member-steps",
        rlresearch("population", "ppo", members=8),
        {jax_loop("ppo", members=8): 1.0},
    ),
    Case(
        "dqn-cartpole",
        "DQN as one compiled program, 128 updates after every 256 steps, nets [256, 256], batch 64",
        rlresearch("device", "dqn"),
        {sb3("dqn"): 10.0, sbx("dqn"): 4.0, jax_loop("dqn"): 1.0},
    ),
    Case(
        "dqn-cartpole-64",
        "the same DQN with nets [64, 64]",
        rlresearch("device", "dqn", units=64),
        {sb3("dqn", units=64): 10.0, sbx("dqn", units=64): 4.0, jax_loop("dqn", units=64): 1.0},
    ),
)
