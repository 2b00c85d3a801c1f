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
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from rlresearch import rng
from rlresearch.errors import ConfigError
from rlresearch.types import Key, Progress
from rlresearch.xla import barrier

Outputs = int | tuple[int, ...]


class Params(NamedTuple):
    """A network's parameters. trainable: receive gradients. frozen: statistics of layers, which never do."""

    trainable: list[tf.Tensor]
    frozen: list[tf.Tensor]


class NetworkBuilder(Hashable, Protocol):
    """What `conf/network` names: the description of a Keras model."""

    def model(self, input_shapes: tuple[tuple[int, ...], ...], outputs: Outputs) -> Any:
        """A built Keras model from inputs [B, *shape] to [B, outputs]; it takes several inputs as a list."""


class Network:
    """A builder's model for fixed shapes, as pure functions of `Params`; the Keras model holds no state.

    Noise of noisy layers is not in `Params`: `noise` draws it, and a call takes it. A call without noise uses the
    mean weights.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._draws = [_initializer_of(model, variable) for variable in model.trainable_variables]
        self._noisy = [variable.name == "noise" for variable in model.non_trainable_variables]

    def init(self, key: Key) -> Params:
        """Initial parameters, drawn by the Keras initializers from `key`. Not for use inside a tf.function."""
        seeds = rng.bits(key, (max(len(self._draws), 1),)).numpy() >> 1  # Keras seeds are int32
        trainable = [
            _draw(initializer, int(seed), variable)
            for initializer, seed, variable in zip(self._draws, seeds, self.model.trainable_variables, strict=False)
        ]
        return Params(trainable, self._statistics([tf.identity(v.value) for v in self.model.non_trainable_variables]))

    def noise(self, key: Key, progress: Progress) -> tf.Tensor | None:
        """Standard normal numbers float32[size] for all noisy layers; None without such layers.

        All rows of a call share them.
        """
        size = sum(self._noise_sizes())
        # Without a barrier XLA draws them again for every weight.
        return barrier(lambda: rng.normal(key, (size,)), progress.step) if size else None

    def apply(self, params: Params, *inputs: tf.Tensor, noise: tf.Tensor | None = None) -> tf.Tensor:
        """The output float32[B, outputs] for inputs [B, ...], as in evaluation: statistics do not change."""
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
        return output, self._statistics(fixed)

    def _noise_sizes(self) -> list[int]:
        return [v.shape[0] for v, noisy in zip(self.model.non_trainable_variables, self._noisy) if noisy]

    def _with_noise(self, frozen: list[tf.Tensor], noise: tf.Tensor | None) -> list[tf.Tensor]:
        """Keras' non-trainable variables in its order: the statistics, and the noise of noisy layers."""
        sizes = self._noise_sizes()
        if not sizes:
            return frozen
        parts = iter(tf.split(tf.zeros(sum(sizes)) if noise is None else noise, sizes))
        statistics = iter(frozen)
        return [next(parts if noisy else statistics) for noisy in self._noisy]

    def _statistics(self, fixed: list[tf.Tensor]) -> list[tf.Tensor]:
        return [each for each, noisy in zip(fixed, self._noisy) if not noisy]


@lru_cache(maxsize=256)
def bind(builder: NetworkBuilder, input_shapes: tuple[tuple[int, ...], ...], outputs: Outputs) -> Network:
    """The network of a builder for these shapes, without the batch axis. Cached: equal arguments give one object."""
    return Network(builder.model(input_shapes, outputs))


def _initializer_of(model: Any, variable: Any) -> Any:
    """The initializer of a variable, by Keras' convention layer.<variable name>_initializer.

    Raises ConfigError if the layer has none.
    """
    for layer in _layers(model):
        if any(variable is owned for owned in layer.trainable_variables):
            initializer = getattr(layer, f"{variable.name}_initializer", None)
            if initializer is not None:
                return initializer
    raise ConfigError(
        f"network variable {variable.path!r} has no initializer: its layer needs an attribute "
        f"'{variable.name}_initializer', from which the run's seed draws it."
    )


def _layers(model: Any) -> list[Any]:
    """All layers of a model, with the layers of nested models in their place."""
    found = []
    for layer in model.layers:
        found += _layers(layer) if hasattr(layer, "layers") else [layer]
    return found


def _draw(initializer: Any, seed: int, variable: Any) -> tf.Tensor:
    """The initial value of a variable, in its shape, from an initializer with another seed."""
    config = initializer.get_config() if hasattr(initializer, "get_config") else {}
    if "seed" in config:
        initializer = type(initializer).from_config({**config, "seed": seed})
    return tf.convert_to_tensor(initializer(variable.shape, dtype=variable.dtype))
