"""Steps per second of PPO on CartPole-v1 as one compiled JAX program, as one JSON line.

The yardstick for compiled on-policy training: the work of PureJaxRL's `ppo.py` (https://github.com/luchris429/purejaxrl;
Lu et al. 2022), written anew as a plain loop of one task. Rollouts, advantages, epochs and minibatches are one jitted
`lax.scan` whose state is donated, and `--members` maps the same program over that many seeds with `jax.vmap`.

As there, the end of an episode ends its value even where only its time was over, and what acts says at once what it
thinks of the state (its value) and of the action (its log-probability).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax_cartpole import CartPole, interact, reset
from jax_nets import Adam, adam, adam_start, clipped, mlp, orthogonal
from jax_timing import prepare, report
from work import PPO, arguments, chosen

OBS, ACTIONS = 4, 2
ROLLOUTS = 50
"""In one call from Python."""


class Nets(NamedTuple):
    actor: list
    critic: list


class Learner(NamedTuple):
    nets: Nets
    moments: Adam
    count: jax.Array


class Member(NamedTuple):
    """cartpole: N of them."""

    learner: Learner
    cartpole: CartPole
    key: jax.Array


class Rows(NamedTuple):
    """[T, N, ...] as they come, [B, ...] as they are learned from; ended in whatever way."""

    obs: jax.Array
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    ended: jax.Array


def logits_of(nets: Nets, obs: jax.Array) -> jax.Array:
    return mlp(nets.actor, obs, jnp.tanh)


def value_of(nets: Nets, obs: jax.Array) -> jax.Array:
    return mlp(nets.critic, obs, jnp.tanh)[..., 0]


def log_prob_of(log_probs: jax.Array, action: jax.Array) -> jax.Array:
    return jnp.take_along_axis(log_probs, action[..., None], axis=-1)[..., 0]


def collect(task: PPO, nets: Nets, cartpole: CartPole, key: jax.Array) -> tuple[CartPole, Rows]:
    """A rollout, T steps of N environments. All of its random numbers are drawn at once."""
    of_actions, of_resets = jax.random.split(key)
    size = (task.steps, task.num_envs)
    draws = jax.random.gumbel(of_actions, (*size, ACTIONS)), jax.random.uniform(of_resets, (*size, OBS))

    def step(cartpole: CartPole, drawn: tuple[jax.Array, jax.Array]) -> tuple[CartPole, Rows]:
        log_probs = jax.nn.log_softmax(logits_of(nets, cartpole.obs))
        action = jnp.argmax(log_probs + drawn[0], axis=-1)
        value = value_of(nets, cartpole.obs)
        moved, ending = jax.vmap(interact)(cartpole, action, drawn[1])
        ended = ending.terminated | ending.truncated
        return moved, Rows(cartpole.obs, action, log_prob_of(log_probs, action), value, ended)

    return jax.lax.scan(step, cartpole, draws)


def advantages(task: PPO, rows: Rows, last_value: jax.Array) -> jax.Array:
    """[T, N] (Schulman et al. 2016, equation 16)."""

    def back(carry: tuple[jax.Array, jax.Array], row: Rows) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        later, next_value = carry
        discount = task.gamma * (1 - row.ended)
        advantage = 1 + discount * next_value - row.value + discount * task.gae_lambda * later
        return (advantage, row.value), advantage

    return jax.lax.scan(back, (jnp.zeros_like(last_value), last_value), rows, reverse=True, unroll=16)[1]


def loss(nets: Nets, task: PPO, rows: Rows, advantage: jax.Array, target: jax.Array) -> jax.Array:
    log_probs = jax.nn.log_softmax(logits_of(nets, rows.obs))
    value = value_of(nets, rows.obs)
    near = rows.value + jnp.clip(value - rows.value, -task.clip, task.clip)
    value_loss = jnp.mean(jnp.maximum((value - target) ** 2, (near - target) ** 2))
    ratio = jnp.exp(log_prob_of(log_probs, rows.action) - rows.log_prob)
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    objective = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - task.clip, 1 + task.clip) * advantage)
    entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
    return task.value_weight * value_loss - jnp.mean(objective) - task.entropy_weight * jnp.mean(entropy)


def learn(task: PPO, learner: Learner, rows: Rows, advantage: jax.Array, key: jax.Array) -> Learner:
    """All epochs from one rollout."""
    size = task.steps * task.num_envs
    flat = jax.tree.map(lambda leaf: leaf.reshape(size, *leaf.shape[2:]), (rows, advantage, advantage + rows.value))

    def minibatch(learner: Learner, dealt: tuple) -> tuple[Learner, None]:
        grads = clipped(jax.grad(loss)(learner.nets, task, *dealt), task.max_grad_norm)
        count = learner.count + 1
        nets, moments = adam(grads, learner.moments, learner.nets, count, task.lr, task.adam_eps)
        return Learner(nets, moments, count), None

    def epoch(learner: Learner, key: jax.Array) -> tuple[Learner, None]:
        order = jax.random.permutation(key, size)
        deal = lambda leaf: leaf[order].reshape(task.minibatches, -1, *leaf.shape[1:])  # noqa: E731
        return jax.lax.scan(minibatch, learner, jax.tree.map(deal, flat))

    return jax.lax.scan(epoch, learner, jax.random.split(key, task.epochs))[0]


def start(key: jax.Array, task: PPO) -> Member:
    of_actor, of_critic, of_reset, of_run = jax.random.split(key, 4)
    actor = orthogonal(of_actor, [OBS, *task.hidden, ACTIONS], last_gain=0.01)
    nets = Nets(actor, orthogonal(of_critic, [OBS, *task.hidden, 1], last_gain=1.0))
    cartpole = jax.vmap(reset)(jax.random.uniform(of_reset, (task.num_envs, OBS)))
    return Member(Learner(nets, adam_start(nets), jnp.zeros((), jnp.int32)), cartpole, of_run)


@partial(jax.jit, static_argnames=("task", "mapped"), donate_argnames="members")
def train(members: Member, task: PPO, mapped: bool) -> tuple[Member, jax.Array]:
    """`ROLLOUTS` rollouts of each member; returns the members and the mean return of the episodes that ended.

    With `mapped`, every leaf of `members` has a leading axis of members; without, none has.
    """

    def update(member: Member, _: None) -> tuple[Member, jax.Array]:
        key, of_rollout, of_epochs = jax.random.split(member.key, 3)
        cartpole, rows = collect(task, member.learner.nets, member.cartpole, of_rollout)
        advantage = advantages(task, rows, value_of(member.learner.nets, cartpole.obs))
        learner = learn(task, member.learner, rows, advantage, of_epochs)
        return Member(learner, cartpole, key), jnp.mean(rows.ended)

    def all_updates(member: Member) -> tuple[Member, jax.Array]:
        return jax.lax.scan(update, member, length=ROLLOUTS)

    members, ended = (jax.vmap(all_updates) if mapped else all_updates)(members)
    return members, 1 / jnp.mean(ended)


def main() -> None:
    parser = arguments(__doc__, ("ppo",))
    parser.add_argument("--members", type=int, default=1, help="independent runs, each with its own seed, at once")
    options = parser.parse_args()
    prepare(options.threads)
    task, mapped = chosen(options), options.members > 1
    keys = jax.random.split(jax.random.key(options.seed), options.members)
    begin = partial(start, task=task)
    members = jax.jit(jax.vmap(begin))(keys) if mapped else jax.jit(begin)(keys[0])

    def block() -> jax.Array:
        nonlocal members
        members, mean_return = train(members, task=task, mapped=mapped)
        return mean_return

    report(options, block, ROLLOUTS * task.steps * task.num_envs * options.members)


if __name__ == "__main__":
    main()
