"""Steps per second of DDPG on Pendulum-v1 as one compiled JAX program, as one JSON line.

The yardstick for compiled training: what somebody who knows JAX would write by hand for this one task. Environment,
noise, replay, both updates and both target networks run inside one jitted `lax.scan` whose state is donated, and
`--members` maps the same program over that many seeds with `jax.vmap`.

One step does the work that DDPG (Lillicrap et al., 2016, Algorithm 1) asks for: the actor with Gaussian noise acts,
the environment steps, the transition enters the replay, `batch` rows are drawn with replacement, the critic descends
the squared error of its one-step target, the actor ascends the updated critic, Adam steps both, and both targets move
by Polyak averaging.

How it is kept lean, without giving up plain JAX:

- random numbers are drawn for a block of steps at a time, with one key per block: on a CPU, Threefry is a loop inside
  the program. On a noisy machine this could not be told from drawing in every step;
- a transition is one row of one replay array, so that a step writes once and gathers once;
- what all members share (the step number and so the replay's next row) is not mapped, so a write stays a slice update,
  and each member's rows lie together: members as the replay's inner axis ran at a fifth of the speed;
- parameters stay trees of arrays: one flat vector for each network was 3 to 10 % slower.

Run in the peers' own environment (see `scripts/benchmark.py`).
"""

import argparse
import importlib.metadata
import itertools
import json
import os
import time
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

OBS, ACTION = 3, 1
COLUMNS = 2 * OBS + ACTION + 2
"""A replay row: observation, action, reward, terminated, next observation."""
EPISODE = 200
GAMMA, TAU, NOISE = 0.99, 0.005, 0.1
LEARNING_RATE, BETA_1, BETA_2, EPSILON = 1e-3, 0.9, 0.999, 1e-8
RANDOM_STEPS = 1000
"""Steps with random actions before learning."""
DRAWS_PER_BLOCK = 128_000
"""Replay rows drawn at a time, over all members: 1,000 steps of a batch of 128, which was 3 % faster than 200."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 64], help="units of each hidden layer")
    parser.add_argument("--batch", type=int, default=128, help="transitions in each update")
    parser.add_argument("--members", type=int, default=1, help="independent runs, each with its own seed, at once")
    parser.add_argument("--capacity", type=int, default=100_000, help="transitions that each replay buffer holds")
    parser.add_argument("--seconds", type=float, default=10.0, help="about how long the timed region lasts")
    parser.add_argument("--threads", type=int, default=1, help="threads for XLA")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


class Pendulum(NamedTuple):
    """Gymnasium's Pendulum-v1: angle in radians from upright, angular velocity in rad/s, steps in this episode."""

    angle: jax.Array
    velocity: jax.Array
    elapsed: jax.Array


class Adam(NamedTuple):
    """First and second moments, shaped like the parameters."""

    mean: list
    square: list


class Learner(NamedTuple):
    actor: list
    critic: list
    target_actor: list
    target_critic: list
    actor_adam: Adam
    critic_adam: Adam


class Member(NamedTuple):
    learner: Learner
    pendulum: Pendulum
    replay: jax.Array
    """[capacity, COLUMNS]"""


class Draws(NamedTuple):
    """One step's random numbers: [batch] and [ACTION] and [2], uniform in [0, 1) but for the standard normal noise."""

    rows: jax.Array
    noise: jax.Array
    reset: jax.Array


def mlp_init(key: jax.Array, sizes: list[int]) -> list:
    """Weights and biases uniform in +-1/sqrt(inputs), as in the paper's hidden layers."""
    layers = []
    for inputs, outputs in itertools.pairwise(sizes):
        key, of_weights, of_biases = jax.random.split(key, 3)
        bound = inputs**-0.5
        weights = jax.random.uniform(of_weights, (inputs, outputs), minval=-bound, maxval=bound)
        layers.append((weights, jax.random.uniform(of_biases, (outputs,), minval=-bound, maxval=bound)))
    return layers


def mlp(layers: list, inputs: jax.Array) -> jax.Array:
    for weights, biases in layers[:-1]:
        inputs = jax.nn.relu(inputs @ weights + biases)
    weights, biases = layers[-1]
    return inputs @ weights + biases


def act(actor: list, obs: jax.Array) -> jax.Array:
    """Actions in [-1, 1]."""
    return jnp.tanh(mlp(actor, obs))


def value(critic: list, obs: jax.Array, action: jax.Array) -> jax.Array:
    return mlp(critic, jnp.concatenate([obs, action], axis=-1))[..., 0]


def observe(pendulum: Pendulum) -> jax.Array:
    return jnp.stack([jnp.cos(pendulum.angle), jnp.sin(pendulum.angle), pendulum.velocity])


def reset(uniforms: jax.Array) -> Pendulum:
    return Pendulum(jnp.pi * (2 * uniforms[0] - 1), 2 * uniforms[1] - 1, jnp.zeros((), jnp.int32))


def env_step(pendulum: Pendulum, action: jax.Array) -> tuple[Pendulum, jax.Array]:
    """The next state and the reward; `action` [ACTION] in [-1, 1] is half the torque. Nothing ends but by time."""
    torque = 2.0 * jnp.clip(action[0], -1.0, 1.0)
    wrapped = (pendulum.angle + jnp.pi) % (2 * jnp.pi) - jnp.pi
    cost = wrapped**2 + 0.1 * pendulum.velocity**2 + 0.001 * torque**2
    velocity = pendulum.velocity + (15.0 * jnp.sin(pendulum.angle) + 3.0 * torque) * 0.05
    velocity = jnp.clip(velocity, -8.0, 8.0)
    return Pendulum(pendulum.angle + 0.05 * velocity, velocity, pendulum.elapsed + 1), -cost


def interact(pendulum: Pendulum, action: jax.Array, uniforms: jax.Array) -> tuple[Pendulum, jax.Array, jax.Array]:
    """One step with auto-reset: the state to go on from, the replay row [COLUMNS], the reward."""
    stepped, reward = env_step(pendulum, action)
    ending = jnp.stack([reward, jnp.zeros(())])
    row = jnp.concatenate([observe(pendulum), action, ending, observe(stepped)])
    fresh = reset(uniforms)
    over = stepped.elapsed >= EPISODE
    return jax.tree.map(partial(jnp.where, over), fresh, stepped), row, reward


def adam(grads: list, adam_state: Adam, params: list, count: jax.Array) -> tuple[list, Adam]:
    """Kingma & Ba (2015), Algorithm 1; `count` is the number of this update, from 1."""
    rate = LEARNING_RATE * jnp.sqrt(1 - BETA_2**count) / (1 - BETA_1**count)
    mean = jax.tree.map(lambda m, g: BETA_1 * m + (1 - BETA_1) * g, adam_state.mean, grads)
    square = jax.tree.map(lambda v, g: BETA_2 * v + (1 - BETA_2) * g * g, adam_state.square, grads)
    params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + EPSILON), params, mean, square)
    return params, Adam(mean, square)


def polyak(target: list, params: list) -> list:
    return jax.tree.map(lambda t, p: t + TAU * (p - t), target, params)


def update(learner: Learner, rows: jax.Array, count: jax.Array) -> Learner:
    """One update from `rows` [batch, COLUMNS]."""
    obs, action = rows[:, :OBS], rows[:, OBS : OBS + ACTION]
    reward, terminated = rows[:, OBS + ACTION], rows[:, OBS + ACTION + 1]
    next_obs = rows[:, -OBS:]

    bootstrap = value(learner.target_critic, next_obs, act(learner.target_actor, next_obs))
    target = reward + GAMMA * (1 - terminated) * bootstrap
    grads = jax.grad(lambda critic: jnp.mean((value(critic, obs, action) - target) ** 2))(learner.critic)
    critic, critic_adam = adam(grads, learner.critic_adam, learner.critic, count)

    grads = jax.grad(lambda actor: -jnp.mean(value(critic, obs, act(actor, obs))))(learner.actor)
    actor, actor_adam = adam(grads, learner.actor_adam, learner.actor, count)

    return Learner(
        actor,
        critic,
        polyak(learner.target_actor, actor),
        polyak(learner.target_critic, critic),
        actor_adam,
        critic_adam,
    )


def train_step(member: Member, t: jax.Array, draws: Draws) -> tuple[Member, jax.Array]:
    """Step number `t` (from 0, the random ones included) of one member."""
    learner = member.learner
    action = act(learner.actor, observe(member.pendulum)) + NOISE * draws.noise
    action = jnp.clip(action, -1.0, 1.0)
    pendulum, row, reward = interact(member.pendulum, action, draws.reset)
    capacity = member.replay.shape[0]
    replay = jax.lax.dynamic_update_slice(member.replay, row[None], (t % capacity, 0))
    stored = jnp.minimum(t + 1, capacity)
    drawn = (draws.rows * stored).astype(jnp.int32)
    rows = replay.at[drawn].get(mode="promise_in_bounds")
    learner = update(learner, rows, t + 1 - RANDOM_STEPS)
    return Member(learner, pendulum, replay), reward


def draw(key: jax.Array, steps: int, batch: int) -> Draws:
    of_rows, of_noise, of_reset = jax.random.split(key, 3)
    return Draws(
        jax.random.uniform(of_rows, (steps, batch)),
        jax.random.normal(of_noise, (steps, ACTION)),
        jax.random.uniform(of_reset, (steps, 2)),
    )


def start(key: jax.Array, hidden: tuple[int, ...], capacity: int) -> Member:
    """A member that has taken `RANDOM_STEPS` steps with uniform actions and not learned yet."""
    of_actor, of_critic, of_reset, of_resets, of_actions = jax.random.split(key, 5)
    actor = mlp_init(of_actor, [OBS, *hidden, ACTION])
    critic = mlp_init(of_critic, [OBS + ACTION, *hidden, 1])
    moments = [Adam(*(jax.tree.map(jnp.zeros_like, params) for _ in range(2))) for params in (actor, critic)]
    copies = [jax.tree.map(jnp.copy, params) for params in (actor, critic)]
    learner = Learner(actor, critic, *copies, *moments)

    def random_step(pendulum: Pendulum, drawn: tuple[jax.Array, jax.Array]) -> tuple[Pendulum, jax.Array]:
        return interact(pendulum, *drawn)[:2]

    actions = jax.random.uniform(of_actions, (RANDOM_STEPS, ACTION), minval=-1.0, maxval=1.0)
    resets = jax.random.uniform(of_resets, (RANDOM_STEPS, 2))
    pendulum, rows = jax.lax.scan(random_step, reset(jax.random.uniform(of_reset, (2,))), (actions, resets))
    replay = jnp.zeros((capacity, COLUMNS)).at[:RANDOM_STEPS].set(rows)
    return Member(learner, pendulum, replay)


@partial(jax.jit, static_argnames=("steps", "batch", "mapped"), donate_argnames="members")
def train(
    members: Member, keys: jax.Array, first: jax.Array, *, steps: int, batch: int, mapped: bool
) -> tuple[Member, jax.Array]:
    """Takes `steps` steps from step number `first`; returns the members and the mean reward of these steps.

    With `mapped`, every leaf of `members` and `keys` has a leading axis of members; without, none has.
    """
    draw_block = partial(draw, steps=steps, batch=batch)
    keys_of_block, step = partial(jax.random.fold_in, data=first), train_step
    if mapped:
        draw_block, keys_of_block = jax.vmap(draw_block, out_axes=1), jax.vmap(keys_of_block)
        step = jax.vmap(train_step, in_axes=(0, None, 0))

    def body(carry: tuple[Member, jax.Array], draws: Draws) -> tuple[tuple[Member, jax.Array], jax.Array]:
        members, t = carry
        members, reward = step(members, t, draws)
        return (members, t + 1), reward

    (members, _), rewards = jax.lax.scan(body, (members, first), draw_block(keys_of_block(keys)))
    return members, jnp.mean(rewards)


def measure(options: argparse.Namespace) -> dict:
    """Trains and returns what the JSON line holds."""
    mapped = options.members > 1
    begin = partial(start, hidden=tuple(options.hidden), capacity=options.capacity)
    keys, of_start = jax.random.split(jax.random.key(options.seed), (2, options.members))
    if mapped:
        members = jax.jit(jax.vmap(begin))(of_start)
    else:
        keys, members = keys[0], jax.jit(begin)(of_start[0])
    steps = max(1, DRAWS_PER_BLOCK // (options.batch * options.members))
    taken = RANDOM_STEPS

    def blocks(count: int) -> tuple[float, float]:
        """Trains `count` blocks; returns the seconds that they took and the mean return of an episode in the last."""
        nonlocal members, taken
        reward = jnp.zeros(())
        began = time.perf_counter()
        for _ in range(count):
            members, reward = train(members, keys, jnp.int32(taken), steps=steps, batch=options.batch, mapped=mapped)
            taken += steps
        jax.block_until_ready(members)
        return time.perf_counter() - began, EPISODE * float(reward)

    compile_seconds, _ = blocks(1)
    probe, (probe_seconds, _) = 1, blocks(1)
    while probe_seconds < min(1.0, options.seconds / 5):
        probe *= 2
        probe_seconds, _ = blocks(probe)
    count = max(1, round(options.seconds * probe / probe_seconds))
    elapsed, mean_return = blocks(count)
    member_steps = count * steps * options.members
    return {
        "steps_per_second": member_steps / elapsed,
        "steps": member_steps,
        "seconds": elapsed,
        "compile_seconds": compile_seconds,
        "threads": options.threads,
        "mean_return": mean_return,
        "versions": {package: importlib.metadata.version(package) for package in ("jax", "jaxlib", "numpy")},
    }


def main() -> None:
    options = arguments()
    # JAX reads these when it starts its CPU client, which is at the first array and not at the import.
    os.environ["PJRT_NPROC"] = str(options.threads)
    if options.threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    jax.config.update("jax_platforms", "cpu")
    print(json.dumps(measure(options)))


if __name__ == "__main__":
    main()
