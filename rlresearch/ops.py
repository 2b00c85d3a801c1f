"""The mathematics of reinforcement learning: no networks, no state.

Names follow Sutton & Barto and rlax: `q_tm1` is a value at the time the action was taken, `r_t`
and `q_t` are what came one step later. Shapes: B rows of a batch; every function is elementwise
over B unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from rlresearch.types import Tree


def discount(gamma: tf.Tensor | float, terminated: tf.Tensor, steps: tf.Tensor | float = 1.0) -> tf.Tensor:
    """discount_t float32[B]: gamma to the power of `steps` where the task goes on, 0 where it terminated.

    The one place where an episode's end meets its value. `truncated` is not an argument: a time
    limit ends the episode, never the value (Pardo et al. 2018, https://arxiv.org/abs/1712.00378).
    """
    return tf.pow(tf.cast(gamma, tf.float32), steps) * (1.0 - tf.cast(terminated, tf.float32))


def td_target(r_t: tf.Tensor, discount_t: tf.Tensor, v_t: tf.Tensor) -> tf.Tensor:
    """r_t + discount_t * v_t, float32[B], through which no gradient flows."""
    return tf.stop_gradient(r_t + discount_t * v_t)


def n_step_return(
    reward: tf.Tensor, terminated: tf.Tensor, truncated: tf.Tensor, stored: tf.Tensor, gamma: tf.Tensor | float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sums of up to n rewards, discounted, and of how many each is: float32[B], float32[B] in 1..n.

    All arguments [B, n], the steps that follow each other. A sum ends with the step that ends an episode
    in whatever way, and before the first step that is not `stored`. Its bootstrap value is that of the
    observation after its last step, times `discount(gamma, terminated there, steps)`.
    """
    goes_on = tf.logical_not(tf.logical_or(terminated, truncated))
    included = [stored[:, 0]]
    for k in range(1, reward.shape[1]):
        included.append(tf.logical_and(tf.logical_and(included[-1], goes_on[:, k - 1]), stored[:, k]))
    included = tf.cast(tf.stack(included, axis=1), tf.float32)
    powers = tf.pow(tf.cast(gamma, tf.float32), tf.range(reward.shape[1], dtype=tf.float32))
    return tf.reduce_sum(included * powers * reward, axis=1), tf.reduce_sum(included, axis=1)


def chosen(values: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """The value float32[B] of each row's action int32[B], out of [B, A]; also [B, K] out of [B, A, K]."""
    mask = tf.one_hot(action, values.shape[1])
    return tf.reduce_sum(values * tf.reshape(mask, (*mask.shape, *[1] * (len(values.shape) - 2))), axis=1)


def huber(error: tf.Tensor, kappa: tf.Tensor | float = 1.0) -> tf.Tensor:
    """Half the square up to `kappa`, linear with slope `kappa` beyond (Huber 1964)."""
    size = tf.abs(error)
    quadratic = tf.minimum(size, kappa)
    return 0.5 * tf.square(quadratic) + kappa * (size - quadratic)


def due(update: tf.Tensor, every: int) -> tf.Tensor:
    """float32 scalar: 1 in every `every`-th gradient step (counted from 0), otherwise 0."""
    return tf.cast(tf.equal((update + 1) % every, 0), tf.float32)


def polyak(target: Tree, online: Tree, tau: tf.Tensor | float) -> Tree:
    """Soft target update (Lillicrap et al. 2016, Algorithm 1): (1 - tau) * target + tau * online.

    Exact at both ends: 0 leaves the target, 1 copies.
    """
    return tf.nest.map_structure(lambda old, new: (1.0 - tau) * old + tau * new, target, online)


def value_and_grad(function: Callable, variables: Tree) -> tuple[tuple[tf.Tensor, Tree], Tree]:
    """Runs `function(variables) -> (scalar, extra)`; returns ((scalar, extra), gradients).

    Gradients have the structure of `variables`; where the scalar does not depend on a variable its
    gradient is zero.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(tf.nest.flatten(variables))
        value, extra = function(variables)
    return (value, extra), tape.gradient(value, variables, unconnected_gradients="zero")


def grad(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """The gradient of a scalar function at x, in x's shape. For a batch see `batch_grad`."""
    return value_and_grad(lambda x: (function(x), ()), x)[1]


def batch_grad(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """Row by row gradients [B, ...] of a function from [B, ...] to [B] that treats rows apart."""
    return grad(lambda x: tf.reduce_sum(function(x)), x)


def jacobian(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """d function(x)_i / d x_j, shape [*outputs, *inputs], for one x."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        y = function(x)
    return tape.jacobian(y, x)


def batch_jacobian(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """Row by row Jacobians [B, outputs, inputs] of a function that treats rows apart."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        y = function(x)
    return tape.batch_jacobian(y, x)


# Advantages along a rollout, whose leading axis is time.


def backward_sum(x: tf.Tensor, decay: tf.Tensor) -> tf.Tensor:
    """y_t = x_t + decay_t * y_{t+1}, and y_{T-1} = x_{T-1}: float32[T, ...] of two of that shape.

    By doubling (Hillis & Steele 1986): log2(T) operations on whole arrays, which compile and map, where
    T small ones in a loop would take longer. The last decay is not read.
    """
    shift = 1
    while shift < x.shape[0]:
        beyond = tf.zeros_like(x[:shift])
        x = x + decay * tf.concat([x[shift:], beyond], axis=0)
        decay = decay * tf.concat([decay[shift:], beyond], axis=0)
        shift *= 2
    return x


def generalized_advantage(
    r_t: tf.Tensor,
    discount_t: tf.Tensor,
    ended: tf.Tensor,
    v_tm1: tf.Tensor,
    v_t: tf.Tensor,
    gae_lambda: tf.Tensor | float,
) -> tf.Tensor:
    """Generalized advantage estimates float32[T, ...], Schulman et al. 2016 (https://arxiv.org/abs/1506.02438), eq. 16.

    All arguments float32[T, ...], but ended: bool, where an episode did so in whatever way, beyond which
    nothing is summed. discount_t: `discount`, 0 only where the task terminated. v_tm1, v_t: the values of what
    was acted on and of what that led to, in the same episode, so that a time limit's last step still
    bootstraps. No gradient flows.
    """
    td_error = r_t + discount_t * v_t - v_tm1
    goes_on = 1.0 - tf.cast(ended, tf.float32)
    return tf.stop_gradient(backward_sum(td_error, gae_lambda * discount_t * goes_on))


def standardized(x: tf.Tensor) -> tf.Tensor:
    """x less its mean, over its deviation, float32[B]; 0 where all are alike."""
    centered = x - tf.reduce_mean(x)
    return centered / (tf.sqrt(tf.reduce_mean(tf.square(centered))) + 1e-8)


def clipped_objective(ratio: tf.Tensor, advantage: tf.Tensor, clip: tf.Tensor | float) -> tf.Tensor:
    """Schulman et al. 2017, equation 7, float32[B]; to be increased.

    No gradient where the ratio has left 1 by more than `clip` to the side that the advantage asks for.
    """
    return tf.minimum(ratio * advantage, tf.clip_by_value(ratio, 1.0 - clip, 1.0 + clip) * advantage)


def clipped_value_error(
    value: tf.Tensor, old: tf.Tensor, target: tf.Tensor, clip: tf.Tensor | float | None
) -> tf.Tensor:
    """Squared error float32[B]: the larger of the value's and of a value at most `clip` away from the old one's.

    From the code beside Schulman et al. 2017. None does not clip.
    """
    error = tf.square(value - target)
    if clip is None:
        return error
    return tf.maximum(error, tf.square(old + tf.clip_by_value(value - old, -clip, clip) - target))


# Soft values: return plus temperature times entropy.


def soft_value(q: tf.Tensor, log_prob: tf.Tensor, temperature: tf.Tensor | float) -> tf.Tensor:
    """q - temperature * log_prob, float32[B], of drawn actions: one draw of V (Haarnoja et al. 2018b, eq. 3)."""
    return q - temperature * log_prob


def expected_soft_value(q: tf.Tensor, log_probs: tf.Tensor, temperature: tf.Tensor | float) -> tf.Tensor:
    """V float32[B] over all actions' q and log_probs [B, A] (Christodoulou 2019, eq. 10)."""
    return tf.reduce_sum(tf.exp(log_probs) * soft_value(q, log_probs, temperature), axis=-1)


def temperature_loss(log_temperature: tf.Tensor, entropy: tf.Tensor, target_entropy: tf.Tensor | float) -> tf.Tensor:
    """log_temperature * (entropy - target_entropy), whose descent raises the temperature where the entropy is low.

    Haarnoja et al. 2018b, eq. 18, with the logarithm in the temperature's place. No gradient reaches `entropy`.
    """
    return log_temperature * tf.stop_gradient(entropy - target_entropy)


# Distributions of returns. K: atoms or quantiles of one.


def categorical_projection(places: tf.Tensor, probabilities: tf.Tensor, support: tf.Tensor) -> tf.Tensor:
    """Moves probabilities [B, J] at `places` [B, J] to the K evenly spaced places of `support`, float32[B, K].

    What lies between two of them is shared by nearness, what lies outside goes to the end: the projection of
    Bellemare, Dabney & Munos 2017, https://arxiv.org/abs/1707.06887, equation 7. Sums and, inside, means stay.
    """
    within = tf.clip_by_value(places, support[0], support[-1])
    distance = tf.abs(within[:, :, None] - support) / (support[1] - support[0])
    return tf.reduce_sum(probabilities[:, :, None] * tf.maximum(1.0 - distance, 0.0), axis=1)


def kl_divergence(target: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """KL(target || softmax(logits)), float32[B]: of probabilities [B, K], which get no gradient, from logits [B, K]."""
    target = tf.stop_gradient(target)
    return tf.reduce_sum(tf.math.xlogy(target, target) - target * tf.nn.log_softmax(logits), axis=1)


def quantile_huber_loss(quantiles: tf.Tensor, target: tf.Tensor, kappa: tf.Tensor | float = 1.0) -> tf.Tensor:
    """How far quantiles [B, K] at (2 i + 1) / (2 K) are from samples `target` [B, J]: float32[B].

    Over quantiles the sum, over samples the mean of |tau - 1{u < 0}| huber(u, kappa) / kappa with u = sample - quantile
    (Dabney et al. 2018, https://arxiv.org/abs/1710.10044, equation 10; divided by kappa as in their later
    https://arxiv.org/abs/1806.06923, equation 3, so that a small kappa is plain quantile regression). No gradient
    flows through `target`.
    """
    u = tf.stop_gradient(target)[:, None, :] - quantiles[:, :, None]
    count = quantiles.shape[1]
    tau = (2.0 * tf.range(count, dtype=tf.float32)[:, None] + 1.0) / (2.0 * count)
    side = tf.abs(tau - tf.cast(u < 0.0, tf.float32))
    return tf.reduce_sum(tf.reduce_mean(side * huber(u, kappa) / kappa, axis=2), axis=1)
