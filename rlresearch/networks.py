"""Keras networks as pure functions: `init(key) -> params`, `apply(params, *inputs) -> output`.

The only file that knows Keras. A network *part* is a frozen dataclass with one method,

    def model(self, input_shapes: tuple[tuple[int, ...], ...], outputs: Outputs) -> keras.Model

which returns a built Keras model for inputs of those shapes (without the batch axis); outputs is how many
numbers it gives for a row, or their shape where an algorithm of distributions asks for that. Any such
class, inside or outside this package, can stand in `conf/network`. `bind` turns a part into
functions. Shapes come from the environment, never from the user.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import annotated_types as at
import tensorflow as tf

from rlresearch import rng
from rlresearch.errors import ConfigError, alternatives, shown
from rlresearch.types import Key, Progress
from rlresearch.xla import fence

Activation = Literal[
    "linear", "relu", "tanh", "sigmoid", "elu", "selu", "silu", "gelu", "leaky_relu", "softplus", "softsign"
]
Outputs = int | tuple[int, ...]
INITIALIZERS = {
    "zeros": "all zero",
    "fan_in_uniform": "uniform in +-1/sqrt(fan in): Lillicrap et al. 2016, and PyTorch's default",
    "uniform": "uniform in +-x, written uniform(x)",
    "normal": "normal with deviation x, written normal(x)",
    "orthogonal": "orthogonal with gain x, written orthogonal(x) (Saxe et al. 2014)",
    "glorot_uniform": "Glorot & Bengio 2010",
    "glorot_normal": "Glorot & Bengio 2010",
    "he_uniform": "He et al. 2015",
    "he_normal": "He et al. 2015",
    "lecun_uniform": "LeCun et al. 1998",
    "lecun_normal": "LeCun et al. 1998",
}
_SPELLING = re.compile(r"([a-z_]+)(?:\(((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]{1,2})?)\))?")
_NEEDS_NUMBER = {"uniform", "normal"}
_TAKES_NUMBER = _NEEDS_NUMBER | {"orthogonal"}


class Params(NamedTuple):
    """A network's numbers: `trainable` receive gradients, `frozen` (norm statistics) never do."""

    trainable: list[tf.Tensor]
    frozen: list[tf.Tensor]


class Part(Protocol):
    """What `conf/network` names: a description from which a Keras model is built."""

    def model(self, input_shapes: tuple[tuple[int, ...], ...], outputs: Outputs) -> Any:
        """A built Keras model; several inputs are passed to it as a list."""


@dataclass(frozen=True)
class MLP:
    """A multilayer perceptron; its inputs are flattened and concatenated.

    hidden: units of each hidden layer. kernel_initializer, output_initializer: a name in
    INITIALIZERS for hidden kernels and for the last one; biases start at zero. layer_norm: before
    each hidden activation (Ba et al. 2016). spectral_norm: divides every kernel by its largest
    singular value (Miyato et al. 2018).
    """

    hidden: tuple[Annotated[int, at.Gt(0)], ...] = (256, 256)
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
        from rlresearch import layers

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
class QMLP:
    """A multilayer perceptron for values of discrete actions, with what the DQN family adds to one.

    The first of `outputs` counts actions, a second one the numbers that describe an action's return.
    hidden, activation, initializers: as in `MLP`. dueling: behind all but the last hidden layer the network parts
    into a value V and advantages A, each with a hidden layer of that last size; Q = V + A - mean A over actions
    (Wang et al. 2016, https://arxiv.org/abs/1511.06581, equation 9; the gradient into the shared part is not
    rescaled). noisy: every layer is noisy, see `layers.NoisyDense`; sigma0: of its noise.
    """

    hidden: tuple[Annotated[int, at.Gt(0)], ...] = (256, 256)
    activation: Activation = "relu"
    kernel_initializer: str = "fan_in_uniform"
    output_initializer: str = "fan_in_uniform"
    dueling: bool = False
    noisy: bool = False
    sigma0: Annotated[float, at.Ge(0)] = 0.5

    def __post_init__(self) -> None:
        for field in ("kernel_initializer", "output_initializer"):
            parse_initializer(field, getattr(self, field))
        if self.dueling and not self.hidden:
            raise ConfigError("hidden=[]: dueling needs at least one layer, that of its two streams.")

    def model(self, input_shapes: tuple[tuple[int, ...], ...], outputs: Outputs) -> Any:
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
        from rlresearch import layers

        if self.noisy:
            return layers.NoisyDense(units, keras_initializer(initializer), self.sigma0)
        return tf.keras.layers.Dense(units, kernel_initializer=keras_initializer(initializer))


def size_of(outputs: Outputs) -> int:
    """How many numbers a network puts out for a row."""
    return outputs if isinstance(outputs, int) else math.prod(outputs)


def _joined(input_shapes: tuple[tuple[int, ...], ...]) -> tuple[Any, Any]:
    """A model's inputs, and all of them as one vector."""
    inputs = [tf.keras.Input(shape) for shape in input_shapes]
    flat = [x if len(x.shape) == 2 else tf.keras.layers.Flatten()(x) for x in inputs]
    if len(inputs) == 1:
        return inputs[0], flat[0]
    return inputs, tf.keras.layers.Concatenate()(flat)


def _reshaped(x: Any, outputs: Outputs) -> Any:
    return x if isinstance(outputs, int) else tf.keras.layers.Reshape(outputs)(x)


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
        return self._call(params, inputs, noise, training=False)[0]

    def apply_training(
        self, params: Params, *inputs: tf.Tensor, noise: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """As `apply`, with what is particular to training; also returns the new `frozen`."""
        return self._call(params, inputs, noise, training=True)

    def _call(
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


def parse_initializer(field: str, text: str) -> tuple[str, float | None]:
    """`uniform(0.003)` as ("uniform", 0.003). ConfigError where it is not one of INITIALIZERS."""
    match = _SPELLING.fullmatch(text) if isinstance(text, str) else None
    name, number = match.groups() if match else (None, None)
    numbers_fit = number is None if name not in _TAKES_NUMBER else (number is not None or name not in _NEEDS_NUMBER)
    if name not in INITIALIZERS or not numbers_fit:
        spelt = [f"{known}(x)" if known in _TAKES_NUMBER else known for known in INITIALIZERS]
        raise ConfigError(f"{field}={shown(text)}: must be an initializer{alternatives(str(text), spelt)}")
    return name, None if number is None else float(number)


def keras_initializer(text: str) -> Any:
    """The Keras initializer that a name in INITIALIZERS stands for."""
    name, number = parse_initializer("initializer", text)
    keras = tf.keras.initializers
    if name == "fan_in_uniform":
        return keras.VarianceScaling(1.0 / 3.0, "fan_in", "uniform")
    if name == "uniform":
        return keras.RandomUniform(-number, number)
    if name == "normal":
        return keras.RandomNormal(0.0, number)
    if name == "orthogonal":
        return keras.Orthogonal(1.0 if number is None else number)
    return keras.get(name)


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
