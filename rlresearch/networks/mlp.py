"""Multilayer perceptrons: `MLP` for policies and values, `QNetwork` for values of discrete actions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import tensorflow as tf

from rlresearch.errors import ConfigError
from rlresearch.networks.functional import Outputs
from rlresearch.networks.initializers import keras_initializer, parse_initializer
from rlresearch.ranges import NonNegativeFloat, PositiveInt

Activation = Literal[
    "linear", "relu", "tanh", "sigmoid", "elu", "selu", "silu", "gelu", "leaky_relu", "softplus", "softsign"
]


@dataclass(frozen=True)
class MLP:
    """A multilayer perceptron; its inputs are flattened and concatenated.

    hidden: units of each hidden layer. kernel_initializer, output_initializer: names in INITIALIZERS, for the hidden
    kernels and for the last one; biases start at 0. layer_norm: layer normalization before each hidden activation
    (Ba et al. 2016). spectral_norm: divides every kernel by its largest singular value (Miyato et al. 2018).
    """

    hidden: tuple[PositiveInt, ...] = (256, 256)
    activation: Activation = "relu"
    output_activation: Activation = "linear"
    kernel_initializer: str = "fan_in_uniform"
    output_initializer: str = "fan_in_uniform"
    layer_norm: bool = False
    spectral_norm: bool = False

    def __post_init__(self) -> None:
        for field in ("kernel_initializer", "output_initializer"):
            parse_initializer(field, getattr(self, field))

    def model(self, input_shapes: tuple[tuple[int, ...], ...], outputs: Outputs) -> Any:
        """The Keras model, from inputs [B, *shape] to [B, outputs]."""
        from rlresearch.networks import layers

        dense = layers.SpectralDense if self.spectral_norm else tf.keras.layers.Dense
        inputs, x = _joined(input_shapes)
        for units in self.hidden:
            x = dense(units, kernel_initializer=keras_initializer(self.kernel_initializer))(x)
            if self.layer_norm:
                x = tf.keras.layers.LayerNormalization()(x)
            x = tf.keras.layers.Activation(self.activation)(x)
        x = dense(size_of(outputs), kernel_initializer=keras_initializer(self.output_initializer))(x)
        x = tf.keras.layers.Activation(self.output_activation)(x)
        return tf.keras.Model(inputs, _reshaped(x, outputs))


@dataclass(frozen=True)
class QNetwork:
    """A multilayer perceptron for values of discrete actions, with the options of the DQN family.

    `outputs` is the number of actions, or (actions, numbers that describe an action's return). hidden, activation,
    initializers: as in `MLP`. dueling: after all but the last hidden layer the network has two streams, a value V and
    advantages A, each with a hidden layer of the last size; Q = V + A - mean A over actions (Wang et al. 2016,
    https://arxiv.org/abs/1511.06581, equation 9; gradients into the shared layers are not rescaled). noisy: every
    layer is a `layers.NoisyDense`. sigma0: the initial size of its noise.
    """

    hidden: tuple[PositiveInt, ...] = (256, 256)
    activation: Activation = "relu"
    kernel_initializer: str = "fan_in_uniform"
    output_initializer: str = "fan_in_uniform"
    dueling: bool = False
    noisy: bool = False
    sigma0: NonNegativeFloat = 0.5

    def __post_init__(self) -> None:
        for field in ("kernel_initializer", "output_initializer"):
            parse_initializer(field, getattr(self, field))
        if self.dueling and not self.hidden:
            raise ConfigError("hidden=[]: dueling needs at least one layer, that of its two streams.")

    def model(self, input_shapes: tuple[tuple[int, ...], ...], outputs: Outputs) -> Any:
        """The Keras model, from inputs [B, *shape] to [B, outputs]."""
        inputs, x = _joined(input_shapes)
        if not self.dueling:
            return tf.keras.Model(inputs, self._stream(x, self.hidden, outputs))
        actions, *described = (outputs,) if isinstance(outputs, int) else outputs
        x = self._layers(x, self.hidden[:-1])
        value = self._stream(x, self.hidden[-1:], (1, *described))
        advantage = self._stream(x, self.hidden[-1:], (actions, *described))
        centred = advantage - tf.keras.ops.mean(advantage, axis=1, keepdims=True)
        return tf.keras.Model(inputs, value + centred)

    def _stream(self, x: Any, hidden: tuple[int, ...], outputs: Outputs) -> Any:
        x = self._dense(size_of(outputs), self.output_initializer)(self._layers(x, hidden))
        return _reshaped(x, outputs)

    def _layers(self, x: Any, hidden: tuple[int, ...]) -> Any:
        for units in hidden:
            x = self._dense(units, self.kernel_initializer)(x)
            x = tf.keras.layers.Activation(self.activation)(x)
        return x

    def _dense(self, units: int, initializer: str) -> Any:
        from rlresearch.networks import layers

        if self.noisy:
            return layers.NoisyDense(units, keras_initializer(initializer), self.sigma0)
        return tf.keras.layers.Dense(units, kernel_initializer=keras_initializer(initializer))


def size_of(outputs: Outputs) -> int:
    """The number of outputs of a row."""
    return outputs if isinstance(outputs, int) else math.prod(outputs)


def _joined(input_shapes: tuple[tuple[int, ...], ...]) -> tuple[Any, Any]:
    """(a model's inputs, all of them concatenated to [B, width])."""
    inputs = [tf.keras.Input(shape) for shape in input_shapes]
    flat = [x if len(x.shape) == 2 else tf.keras.layers.Flatten()(x) for x in inputs]
    if len(inputs) == 1:
        return inputs[0], flat[0]
    return inputs, tf.keras.layers.Concatenate()(flat)


def _reshaped(x: Any, outputs: Outputs) -> Any:
    return x if isinstance(outputs, int) else tf.keras.layers.Reshape(outputs)(x)
