"""Keras networks as pure functions: `init(key) -> params`, `apply(params, *inputs) -> output`.

Only this package knows Keras. A *network builder* is a frozen dataclass with one method,

    def model(self, input_shapes: tuple[tuple[int, ...], ...], outputs: Outputs) -> keras.Model

It returns a built Keras model for inputs of these shapes (without the batch axis). outputs: the number of outputs of a
row, or their shape for an algorithm of return distributions. Any such class, inside or outside this package, can
stand in `conf/network`. `bind` makes functions of a builder. Shapes come from the environment, never from the user.
Shapes: B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from rlresearch import rng
from rlresearch.networks import keras_layers
from rlresearch.networks.keras_layers import SEED_STATE
from rlresearch.types import Key, Progress
from rlresearch.xla import barrier

Outputs = int | tuple[int, ...]


class Params(NamedTuple):
    """A network's parameters. trainable: receive gradients. frozen: statistics and random states, which never do."""

    trainable: list[tf.Tensor]
    frozen: list[tf.Tensor]


class NetworkBuilder(Hashable, Protocol):
    """What `conf/network` names: the description of a Keras model."""

    def model(self, input_shapes: tuple[tuple[int, ...], ...], outputs: Outputs) -> Any:
        """A built Keras model from inputs [B, *shape] to [B, outputs]; it takes several inputs as a list."""


class Network:
    """A builder's model for fixed shapes, as pure functions of `Params`; the Keras model holds no state.

    A layer that draws, such as Dropout, has its random state in `Params.frozen`; a training call draws from it and
    returns the next one. Noise of noisy layers is not in `Params`: `noise` draws it, and a call takes it. A call
    without noise uses the mean weights.
    """

    def __init__(self, builder: NetworkBuilder, input_shapes: tuple[tuple[int, ...], ...], outputs: Outputs) -> None:
        self._build = partial(builder.model, input_shapes, outputs)
        with keras_layers.seeded(0):  # a model is a description: to build one disturbs no random numbers
            self.model = self._build()
        keras_layers.prepare(self.model)
        self._initializers = [keras_layers.initializer_of(self.model, each) for each in self.model.trainable_variables]
        self._names = [variable.name for variable in self.model.non_trainable_variables]
        self._noisy = [name == "noise" for name in self._names]
        # Asked once for a network, and not at each `init`: a population draws one for every member.
        others = [v for v in self.model.non_trainable_variables if v.name not in ("noise", SEED_STATE)]
        self._is_drawn_by_building = bool(None in self._initializers or others) and keras_layers.varies(
            self._build, self.model, statistics_alone=None not in self._initializers
        )

    def init(self, key: Key) -> Params:
        """Initial parameters, a function of `key`. Not for use inside a tf.function.

        Variables of layers that follow Keras' convention are drawn by their initializers. For other layers, and for
        statistics, the model is built again from random numbers that follow from `key`.
        """
        seeds = rng.bits(key, (max(len(self._initializers), 1),)).numpy() >> 1  # Keras seeds are int32
        model = self.model
        if self._is_drawn_by_building:
            model = keras_layers.rebuilt(self._build, int(rng.bits(rng.fold_in(key, 0), (1,))[0]))
        trainable = [
            keras_layers.draw(initializer, int(seed), variable) if initializer else tf.identity(variable.value)
            for initializer, seed, variable in zip(self._initializers, seeds, model.trainable_variables, strict=False)
        ]
        fixed = [tf.identity(variable.value) for variable in model.non_trainable_variables]
        states = iter(rng.split(rng.fold_in(key, 1), max(self._names.count(SEED_STATE), 1)).numpy() >> 1)
        fixed = [
            tf.cast(next(states), each.dtype) if name == SEED_STATE else each
            for name, each in zip(self._names, fixed, strict=True)
        ]
        return Params(trainable, self._without_noise(fixed))

    def noise(self, key: Key, progress: Progress) -> tf.Tensor | None:
        """Standard normal numbers float32[size] for all noisy layers; None without such layers.

        All rows of a call share them.
        """
        size = sum(self._noise_sizes())
        # Without a barrier XLA draws them again for every weight.
        return barrier(lambda: rng.normal(key, (size,)), progress.step) if size else None

    def apply(self, params: Params, *inputs: tf.Tensor, noise: tf.Tensor | None = None) -> tf.Tensor:
        """The output float32[B, outputs] for inputs [B, ...], as in evaluation: nothing in `frozen` changes."""
        return self.call(params, inputs, noise, training=False)[0]

    def apply_training(
        self, params: Params, *inputs: tf.Tensor, noise: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """(the output float32[B, outputs] for inputs [B, ...], the new `frozen`), as in training."""
        return self.call(params, inputs, noise, training=True)

    def call(
        self, params: Params, inputs: tuple[tf.Tensor, ...], noise: tf.Tensor | None, training: bool
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """(the output float32[B, outputs] for inputs [B, ...], the new `frozen`).

        noise: float32[size] for noisy layers, None for the mean weights. training: whether statistics of layers change.
        """
        arguments = inputs[0] if len(inputs) == 1 else list(inputs)
        fixed = self._with_noise(params.frozen, noise)
        output, fixed = self.model.stateless_call(params.trainable, fixed, arguments, training=training)
        return output, self._without_noise(fixed)

    def _noise_sizes(self) -> list[int]:
        return [v.shape[0] for v, noisy in zip(self.model.non_trainable_variables, self._noisy) if noisy]

    def _with_noise(self, frozen: list[tf.Tensor], noise: tf.Tensor | None) -> list[tf.Tensor]:
        """Keras' non-trainable variables in its order: `frozen`, and the noise of noisy layers."""
        sizes = self._noise_sizes()
        if not sizes:
            return frozen
        parts = iter(tf.split(tf.zeros(sum(sizes)) if noise is None else noise, sizes))
        others = iter(frozen)
        return [next(parts if noisy else others) for noisy in self._noisy]

    def _without_noise(self, fixed: list[tf.Tensor]) -> list[tf.Tensor]:
        return [each for each, noisy in zip(fixed, self._noisy) if not noisy]


@lru_cache(maxsize=256)
def bind(builder: NetworkBuilder, input_shapes: tuple[tuple[int, ...], ...], outputs: Outputs) -> Network:
    """The network of a builder for these shapes, without the batch axis. Cached: equal arguments give one object."""
    return Network(builder, input_shapes, outputs)
