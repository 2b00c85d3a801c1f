"""Steps per second of DQN on CartPole-v1 as one compiled JAX program, as one JSON line.

The yardstick for compiled training from replay with discrete actions, kept as lean as `jax_ddpg.py`: rounds of acting
and then learning are one jitted `lax.scan` whose state is donated, a transition is one row of one replay array, and
a round's random numbers are drawn at once.

A step that the time limit ends still bootstraps from what it led to. Run in the peers' own environment (see
`scripts/benchmarks/benchmark.py`).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax_cartpole import CartPole, interact, reset
from jax_nets import Adam, adam, adam_start, clipped, fan_in_uniform, mlp
from jax_timing import prepare, report
from work import DQN, arguments, chosen

OBS, ACTIONS = 4, 2
COLUMNS = 2 * OBS + 2
"""A replay row: observation, next observation, action, terminated; the reward is always 1."""
ROUNDS = 10
"""In one call from Python."""


class Run(NamedTuple):
    """q, target: layers; round: int32 [], the number of rounds so far; replay: [capacity, COLUMNS]."""

    q: list
    target: list
    moments: Adam
    cartpole: CartPole
    replay: jax.Array
    round: jax.Array


def collect(task: DQN, run: Run, key: jax.Array, epsilon: float) -> tuple[Run, jax.Array]:
    """The steps of one round; also whether each ended an episode."""
    of_choices, of_actions, of_resets = jax.random.split(key, 3)
    steps = task.update_every
    explore = jax.random.uniform(of_choices, (steps,)) < epsilon
    drawn = jax.random.randint(of_actions, (steps,), 0, ACTIONS)
    resets = jax.random.uniform(of_resets, (steps, OBS))

    def step(cartpole: CartPole, draws: tuple[jax.Array, ...]) -> tuple[CartPole, tuple[jax.Array, jax.Array]]:
        explore, drawn, uniforms = draws
        action = jnp.where(explore, drawn, jnp.argmax(mlp(run.q, cartpole.obs)))
        moved, ending = interact(cartpole, action, uniforms)
        flags = jnp.stack([action, ending.terminated]).astype(jnp.float32)
        row = jnp.concatenate([cartpole.obs, ending.next_obs, flags])
        return moved, (row, ending.terminated | ending.truncated)

    cartpole, (rows, ended) = jax.lax.scan(step, run.cartpole, (explore, drawn, resets))
    places = (run.round * steps + jnp.arange(steps)) % task.capacity
    replay = run.replay.at[places].set(rows)
    return run._replace(cartpole=cartpole, replay=replay, round=run.round + 1), ended


def loss(q: list, rows: jax.Array, target: jax.Array) -> jax.Array:
    values = mlp(q, rows[:, :OBS])
    action = rows[:, -2].astype(jnp.int32)
    error = target - jnp.take_along_axis(values, action[:, None], axis=1)[:, 0]
    size = jnp.minimum(jnp.abs(error), 1.0)
    return jnp.mean(0.5 * size**2 + jnp.abs(error) - size)


def learn(task: DQN, run: Run, key: jax.Array) -> Run:
    """The gradient steps of one round, and the copy of the target."""
    stored = jnp.minimum(run.round * task.update_every, task.capacity)
    drawn = jax.random.randint(key, (task.updates, task.batch), 0, stored)
    before = (run.round - silent_rounds(task) - 1) * task.updates

    def update(carry: tuple[list, Adam], draws: tuple[jax.Array, jax.Array]) -> tuple[tuple[list, Adam], None]:
        (q, moments), (places, i) = carry, draws
        rows = run.replay.at[places].get(mode="promise_in_bounds")
        best = jnp.max(mlp(run.target, rows[:, OBS : 2 * OBS]), axis=1)
        grads = jax.grad(loss)(q, rows, 1 + task.gamma * (1 - rows[:, -1]) * best)
        grads = clipped(grads, task.max_grad_norm)
        return adam(grads, moments, q, before + i + 1, task.lr), None

    (q, moments), _ = jax.lax.scan(update, (run.q, run.moments), (drawn, jnp.arange(task.updates)))
    return run._replace(q=q, target=q, moments=moments)


def silent_rounds(task: DQN) -> int:
    """Rounds before the first that learns."""
    return -(-task.learning_starts // task.update_every)


def start(key: jax.Array, task: DQN) -> Run:
    """A run that has taken the steps before learning, with uniform actions."""
    of_q, of_reset, of_steps = jax.random.split(key, 3)
    q = fan_in_uniform(of_q, [OBS, *task.hidden, ACTIONS])
    cartpole = reset(jax.random.uniform(of_reset, (OBS,)))
    replay = jnp.zeros((task.capacity, COLUMNS))
    run = Run(q, jax.tree.map(jnp.copy, q), adam_start(q), cartpole, replay, jnp.zeros((), jnp.int32))
    for each in jax.random.split(of_steps, silent_rounds(task)):
        run, _ = collect(task, run, each, epsilon=1.0)
    return run


@partial(jax.jit, static_argnames="task", donate_argnames="run")
def train(run: Run, key: jax.Array, *, task: DQN) -> tuple[Run, jax.Array]:
    """`ROUNDS` rounds; returns the run and the mean return of the episodes that ended in them."""

    def one_round(run: Run, _: None) -> tuple[Run, jax.Array]:
        of_steps, of_updates = jax.random.split(jax.random.fold_in(key, run.round))
        run, ended = collect(task, run, of_steps, task.epsilon)
        return learn(task, run, of_updates), jnp.mean(ended)

    run, ended = jax.lax.scan(one_round, run, length=ROUNDS)
    return run, 1 / jnp.mean(ended)


def main() -> None:
    options = arguments(__doc__, ("dqn",)).parse_args()
    prepare(options.threads)
    task = chosen(options)
    key, of_start = jax.random.split(jax.random.key(options.seed))
    run = jax.jit(partial(start, task=task))(of_start)

    def block() -> jax.Array:
        nonlocal run
        run, mean_return = train(run, key, task=task)
        return mean_return

    report(options, block, ROUNDS * task.update_every)


if __name__ == "__main__":
    main()
