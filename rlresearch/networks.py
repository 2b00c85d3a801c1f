"""Keras networks as pure functions: `init(key) -> params`, `apply(params, *inputs) -> output`.

The only file that knows Keras. A network *part* is a frozen dataclass with one method,

    def model(self, input_shapes: tuple[tuple[int, ...], ...], outputs: int) -> keras.Model

which returns a built Keras model for inputs of those shapes (without the batch axis). Any such
class, inside or outside this package, can stand in `conf/network`. `bind` turns a part into
functions. Shapes come from the environment, never from the user.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import annotated_types as at
import tensorflow as tf

from rlresearch import rng
from rlresearch.errors import ConfigError, alternatives, shown
from rlresearch.types import Key

Activation = Literal[
    "linear", "relu", "tanh", "sigmoid", "elu", "selu", "silu", "gelu", "leaky_relu", "softplus", "softsign"
]
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

    def model(self, input_shapes: tuple[tuple[int, ...], ...], outputs: int) -> Any:
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

    def model(self, input_shapes: tuple[tuple[int, ...], ...], outputs: int) -> Any:
        from rlresearch import layers

        dense = layers.SpectralDense if self.spectral_norm else tf.keras.layers.Dense
        inputs = [tf.keras.Input(shape) for shape in input_shapes]
        flat = [x if len(x.shape) == 2 else tf.keras.layers.Flatten()(x) for x in inputs]
        x = flat[0] if len(flat) == 1 else tf.keras.layers.Concatenate()(flat)
        for units in self.hidden:
            x = dense(units, kernel_initializer=keras_initializer(self.kernel_initializer))(x)
            if self.layer_norm:
                x = tf.keras.layers.LayerNormalization()(x)
            x = tf.keras.layers.Activation(self.activation)(x)
        x = dense(outputs, kernel_initializer=keras_initializer(self.output_initializer))(x)
        output = tf.keras.layers.Activation(self.output_activation)(x)
        return tf.keras.Model(inputs[0] if len(inputs) == 1 else inputs, output)


class Network:
    """A part bound to shapes. Pure: its numbers live in `Params`, never in the Keras model."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._draws = [_initializer_of(model, variable) for variable in model.trainable_variables]

    def init(self, key: Key) -> Params:
        """Fresh parameters drawn by the Keras initializers from `key` (not inside a tf.function)."""
        seeds = rng.bits(key, (max(len(self._draws), 1),)).numpy() >> 1  # Keras seeds are int32
        trainable = [
            _draw(initializer, int(seed), variable)
            for initializer, seed, variable in zip(self._draws, seeds, self.model.trainable_variables, strict=False)
        ]
        return Params(trainable, [tf.identity(v.value) for v in self.model.non_trainable_variables])

    def apply(self, params: Params, *inputs: tf.Tensor) -> tf.Tensor:
        """The output [B, outputs] for inputs [B, ...]; statistics stand still."""
        return self._call(params, inputs, training=False)[0]

    def apply_training(self, params: Params, *inputs: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """As `apply`, with what is particular to training; also returns the new `frozen`."""
        return self._call(params, inputs, training=True)

    def _call(self, params: Params, inputs: tuple[tf.Tensor, ...], training: bool) -> tuple[tf.Tensor, list[tf.Tensor]]:
        arguments = inputs[0] if len(inputs) == 1 else list(inputs)
        return self.model.stateless_call(params.trainable, params.frozen, arguments, training=training)


@lru_cache(maxsize=256)
def bind(part: Part, input_shapes: tuple[tuple[int, ...], ...], outputs: int) -> Network:
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
