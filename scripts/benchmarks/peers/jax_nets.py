"""Networks and their descent for the compiled JAX loops: trees of arrays and plain functions of them."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp

BETA_1, BETA_2 = 0.9, 0.999


class Adam(NamedTuple):
    """First and second moments, shaped like the parameters."""

    mean: list
    square: list


def fan_in_uniform(key: jax.Array, sizes: list[int]) -> list:
    """Weights and biases of each layer, uniform in +-1/sqrt(inputs)."""
    layers = []
    for inputs, outputs in itertools.pairwise(sizes):
        key, of_weights, of_biases = jax.random.split(key, 3)
        bound = inputs**-0.5
        weights = jax.random.uniform(of_weights, (inputs, outputs), minval=-bound, maxval=bound)
        layers.append((weights, jax.random.uniform(of_biases, (outputs,), minval=-bound, maxval=bound)))
    return layers


def orthogonal(key: jax.Array, sizes: list[int], last_gain: float) -> list:
    """Orthogonal weights of gain sqrt(2), in the last layer `last_gain`; biases are zero."""
    gains = [2**0.5] * (len(sizes) - 2) + [last_gain]
    keys = jax.random.split(key, len(gains))
    return [
        (jax.nn.initializers.orthogonal(gain)(of_layer, pair), jnp.zeros(pair[1]))
        for gain, of_layer, pair in zip(gains, keys, itertools.pairwise(sizes), strict=True)
    ]


def mlp(layers: list, inputs: jax.Array, activation=jax.nn.relu) -> jax.Array:
    for weights, biases in layers[:-1]:
        inputs = activation(inputs @ weights + biases)
    weights, biases = layers[-1]
    return inputs @ weights + biases


def adam_start(params: list) -> Adam:
    return Adam(*(jax.tree.map(jnp.zeros_like, params) for _ in range(2)))


def adam(grads: list, moments: Adam, params: list, count: jax.Array, lr: float, eps: float = 1e-8) -> tuple[list, Adam]:
    """Kingma & Ba (2015), Algorithm 1; `count` is the number of this update, from 1."""
    rate = lr * jnp.sqrt(1 - BETA_2**count) / (1 - BETA_1**count)
    mean = jax.tree.map(lambda m, g: BETA_1 * m + (1 - BETA_1) * g, moments.mean, grads)
    square = jax.tree.map(lambda v, g: BETA_2 * v + (1 - BETA_2) * g * g, moments.square, grads)
    params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + eps), params, mean, square)
    return params, Adam(mean, square)


def clipped(grads: list, most: float) -> list:
    """Gradients scaled together so that their global norm is at most `most`."""
    norm = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(grads)))
    return jax.tree.map(lambda g: g * jnp.minimum(1.0, most / norm), grads)
