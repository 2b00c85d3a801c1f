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

Run in the peers' own environment (see `scripts/benchmarks/benchmark.py`).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax_nets import Adam, adam, adam_start, fan_in_uniform, mlp
from jax_timing import prepare, report
from work import DDPG, arguments, chosen

OBS, ACTION = 3, 1
COLUMNS = 2 * OBS + ACTION + 2
"""A replay row: observation, action, reward, terminated, next observation."""
EPISODE = 200
DRAWS_PER_BLOCK = 128_000
"""Replay rows drawn at a time, over all members: 1,000 steps of a batch of 128, which was 3 % faster than 200."""


class Pendulum(NamedTuple):
    """Gymnasium's Pendulum-v1: angle in radians from upright, angular velocity in rad/s, steps in this episode."""

    angle: jax.Array
    velocity: jax.Array
    elapsed: jax.Array


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


def polyak(target: list, params: list, tau: float) -> list:
    return jax.tree.map(lambda t, p: t + tau * (p - t), target, params)


def update(task: DDPG, learner: Learner, rows: jax.Array, count: jax.Array) -> Learner:
    """One update from `rows` [batch, COLUMNS]."""
    obs, action = rows[:, :OBS], rows[:, OBS : OBS + ACTION]
    reward, terminated = rows[:, OBS + ACTION], rows[:, OBS + ACTION + 1]
    next_obs = rows[:, -OBS:]

    bootstrap = value(learner.target_critic, next_obs, act(learner.target_actor, next_obs))
    target = reward + task.gamma * (1 - terminated) * bootstrap
    grads = jax.grad(lambda critic: jnp.mean((value(critic, obs, action) - target) ** 2))(learner.critic)
    critic, critic_adam = adam(grads, learner.critic_adam, learner.critic, count, task.lr)

    grads = jax.grad(lambda actor: -jnp.mean(value(critic, obs, act(actor, obs))))(learner.actor)
    actor, actor_adam = adam(grads, learner.actor_adam, learner.actor, count, task.lr)

    return Learner(
        actor,
        critic,
        polyak(learner.target_actor, actor, task.tau),
        polyak(learner.target_critic, critic, task.tau),
        actor_adam,
        critic_adam,
    )


def train_step(task: DDPG, member: Member, t: jax.Array, draws: Draws) -> tuple[Member, jax.Array]:
    """Step number `t` (from 0, the random ones included) of one member."""
    learner = member.learner
    action = act(learner.actor, observe(member.pendulum)) + task.noise * draws.noise
    action = jnp.clip(action, -1.0, 1.0)
    pendulum, row, reward = interact(member.pendulum, action, draws.reset)
    capacity = member.replay.shape[0]
    replay = jax.lax.dynamic_update_slice(member.replay, row[None], (t % capacity, 0))
    stored = jnp.minimum(t + 1, capacity)
    drawn = (draws.rows * stored).astype(jnp.int32)
    rows = replay.at[drawn].get(mode="promise_in_bounds")
    learner = update(task, learner, rows, t + 1 - task.learning_starts)
    return Member(learner, pendulum, replay), reward


def draw(key: jax.Array, steps: int, batch: int) -> Draws:
    of_rows, of_noise, of_reset = jax.random.split(key, 3)
    return Draws(
        jax.random.uniform(of_rows, (steps, batch)),
        jax.random.normal(of_noise, (steps, ACTION)),
        jax.random.uniform(of_reset, (steps, 2)),
    )


def start(key: jax.Array, task: DDPG) -> Member:
    """A member that has taken its first steps with uniform actions and not learned yet."""
    of_actor, of_critic, of_reset, of_resets, of_actions = jax.random.split(key, 5)
    actor = fan_in_uniform(of_actor, [OBS, *task.hidden, ACTION])
    critic = fan_in_uniform(of_critic, [OBS + ACTION, *task.hidden, 1])
    copies = [jax.tree.map(jnp.copy, params) for params in (actor, critic)]
    learner = Learner(actor, critic, *copies, adam_start(actor), adam_start(critic))

    def random_step(pendulum: Pendulum, drawn: tuple[jax.Array, jax.Array]) -> tuple[Pendulum, jax.Array]:
        return interact(pendulum, *drawn)[:2]

    actions = jax.random.uniform(of_actions, (task.learning_starts, ACTION), minval=-1.0, maxval=1.0)
    resets = jax.random.uniform(of_resets, (task.learning_starts, 2))
    pendulum, rows = jax.lax.scan(random_step, reset(jax.random.uniform(of_reset, (2,))), (actions, resets))
    replay = jnp.zeros((task.capacity, COLUMNS)).at[: task.learning_starts].set(rows)
    return Member(learner, pendulum, replay)


@partial(jax.jit, static_argnames=("task", "steps", "mapped"), donate_argnames="members")
def train(
    members: Member, keys: jax.Array, first: jax.Array, *, task: DDPG, steps: int, mapped: bool
) -> tuple[Member, jax.Array]:
    """Takes `steps` steps from step number `first`; returns the members and the mean return of an episode in them.

    With `mapped`, every leaf of `members` and `keys` has a leading axis of members; without, none has.
    """
    draw_block = partial(draw, steps=steps, batch=task.batch)
    keys_of_block, step = partial(jax.random.fold_in, data=first), partial(train_step, task)
    if mapped:
        draw_block, keys_of_block = jax.vmap(draw_block, out_axes=1), jax.vmap(keys_of_block)
        step = jax.vmap(step, in_axes=(0, None, 0))

    def body(carry: tuple[Member, jax.Array], draws: Draws) -> tuple[tuple[Member, jax.Array], jax.Array]:
        members, t = carry
        members, reward = step(members, t, draws)
        return (members, t + 1), reward

    (members, _), rewards = jax.lax.scan(body, (members, first), draw_block(keys_of_block(keys)))
    return members, EPISODE * jnp.mean(rewards)


def main() -> None:
    parser = arguments(__doc__, ("ddpg",))
    parser.add_argument("--members", type=int, default=1, help="independent runs, each with its own seed, at once")
    options = parser.parse_args()
    prepare(options.threads)
    task, mapped = chosen(options), options.members > 1
    begin = partial(start, task=task)
    keys, of_start = jax.random.split(jax.random.key(options.seed), (2, options.members))
    if mapped:
        members = jax.jit(jax.vmap(begin))(of_start)
    else:
        keys, members = keys[0], jax.jit(begin)(of_start[0])
    steps = max(1, DRAWS_PER_BLOCK // (task.batch * options.members))
    taken = task.learning_starts

    def block() -> jax.Array:
        nonlocal members, taken
        members, mean_return = train(members, keys, jnp.int32(taken), task=task, steps=steps, mapped=mapped)
        taken += steps
        return mean_return

    report(options, block, steps * options.members)


if __name__ == "__main__":
    main()
