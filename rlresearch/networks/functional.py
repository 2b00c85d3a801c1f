"""Keras networks as pure functions: `init(key) -> params`, `apply(params, *inputs) -> output`.

The only file that knows Keras. A network *part* is a frozen dataclass with one method,

    def model(self, input_shapes: tuple[tuple[int, ...], ...], outputs: Outputs) -> keras.Model

which returns a built Keras model for inputs of those shapes (without the batch axis); outputs is how many
numbers it gives for a row, or their shape where an algorithm of distributions asks for that. Any such
class, inside or outside this package, can stand in `conf/network`. `bind` turns a part into
functions. Shapes come from the environment, never from the user.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from rlresearch import rng
from rlresearch.errors import ConfigError
from rlresearch.types import Key, Progress
from rlresearch.xla import fence

Outputs = int | tuple[int, ...]


class Params(NamedTuple):
    """A network's numbers: `trainable` receive gradients, `frozen` (norm statistics) never do."""

    trainable: list[tf.Tensor]
    frozen: list[tf.Tensor]


class Part(Hashable, Protocol):
    """What `conf/network` names: a description from which a Keras model is built."""

    def model(self, input_shapes: tuple[tuple[int, ...], ...], outputs: Outputs) -> Any:
        """A built Keras model; several inputs are passed to it as a list."""


class Network:
    """A part bound to shapes. Pure: its numbers live in `Params`, never in the Keras model.

    Numbers of noisy layers are no part of `Params` either: they are drawn by `noise` and given to a call, which
    without them uses the mean weights.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._draws = [_initializer_of(model, variable) for variable in model.trainable_variables]
        self._noisy = [variable.name == "noise" for variable in model.non_trainable_variables]

    def init(self, key: Key) -> Params:
        """Fresh parameters drawn by the Keras initializers from `key` (not inside a tf.function)."""
        seeds = rng.bits(key, (max(len(self._draws), 1),)).numpy() >> 1  # Keras seeds are int32
        trainable = [
            _draw(initializer, int(seed), variable)
            for initializer, seed, variable in zip(self._draws, seeds, self.model.trainable_variables, strict=False)
        ]
        return Params(trainable, self._statistics([tf.identity(v.value) for v in self.model.non_trainable_variables]))

    def noise(self, key: Key, progress: Progress) -> tf.Tensor | None:
        """Standard normal numbers for all noisy layers, the same for every row of a call; None if there are no such."""
        size = sum(self._noise_sizes())
        # Behind a fence, or XLA draws them again for every weight that they move.
        return fence(lambda: rng.normal(key, (size,)), progress.step) if size else None

    def apply(self, params: Params, *inputs: tf.Tensor, noise: tf.Tensor | None = None) -> tf.Tensor:
        """The output [B, outputs] for inputs [B, ...]; statistics stand still."""
        return self.call(params, inputs, noise, training=False)[0]

    def apply_training(
        self, params: Params, *inputs: tf.Tensor, noise: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """As `apply`, with what is particular to training; also returns the new `frozen`."""
        return self.call(params, inputs, noise, training=True)

    def call(
        self, params: Params, inputs: tuple[tf.Tensor, ...], noise: tf.Tensor | None, training: bool
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        arguments = inputs[0] if len(inputs) == 1 else list(inputs)
        fixed = self._with_noise(params.frozen, noise)
        output, fixed = self.model.stateless_call(params.trainable, fixed, arguments, training=training)
        return output, self._statistics(fixed)

    def _noise_sizes(self) -> list[int]:
        return [v.shape[0] for v, noisy in zip(self.model.non_trainable_variables, self._noisy) if noisy]

    def _with_noise(self, frozen: list[tf.Tensor], noise: tf.Tensor | None) -> list[tf.Tensor]:
        """All that Keras calls non-trainable: the statistics, and noise in its places."""
        sizes = self._noise_sizes()
        if not sizes:
            return frozen
        parts = iter(tf.split(tf.zeros(sum(sizes)) if noise is None else noise, sizes))
        statistics = iter(frozen)
        return [next(parts if noisy else statistics) for noisy in self._noisy]

    def _statistics(self, fixed: list[tf.Tensor]) -> list[tf.Tensor]:
        return [each for each, noisy in zip(fixed, self._noisy) if not noisy]


@lru_cache(maxsize=256)
def bind(part: Part, input_shapes: tuple[tuple[int, ...], ...], outputs: Outputs) -> Network:
    """The network that `part` describes, for these shapes; the same object for the same question."""
    return Network(part.model(input_shapes, outputs))


def _initializer_of(model: Any, variable: Any) -> Any:
    """The initializer of a variable by Keras' convention: layer.<variable name>_initializer."""
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
    found = []
    for layer in model.layers:
        found += _layers(layer) if hasattr(layer, "layers") else [layer]
    return found


def _draw(initializer: Any, seed: int, variable: Any) -> tf.Tensor:
    config = initializer.get_config() if hasattr(initializer, "get_config") else {}
    if "seed" in config:
        initializer = type(initializer).from_config({**config, "seed": seed})
    return tf.convert_to_tensor(initializer(variable.shape, dtype=variable.dtype))
