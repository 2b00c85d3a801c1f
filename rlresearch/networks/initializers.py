"""Initializers by name, as a configuration writes them."""

from __future__ import annotations

import re
from typing import Any

import tensorflow as tf

from rlresearch.errors import ConfigError, allowed_hint, format_value

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


def parse_initializer(field: str, text: str) -> tuple[str, float | None]:
    """("uniform", 0.003) for `uniform(0.003)`. Raises ConfigError unless the name is in INITIALIZERS."""
    match = _SPELLING.fullmatch(text) if isinstance(text, str) else None
    name, number = match.groups() if match else (None, None)
    numbers_fit = number is None if name not in _TAKES_NUMBER else (number is not None or name not in _NEEDS_NUMBER)
    if name not in INITIALIZERS or not numbers_fit:
        spelt = [f"{known}(x)" if known in _TAKES_NUMBER else known for known in INITIALIZERS]
        raise ConfigError(f"{field}={format_value(text)}: must be an initializer{allowed_hint(str(text), spelt)}")
    return name, None if number is None else float(number)


def keras_initializer(text: str) -> Any:
    """The Keras initializer of a name in INITIALIZERS, such as `uniform(0.003)`."""
    name, number = parse_initializer("initializer", text)
    keras = tf.keras.initializers
    if name == "fan_in_uniform":
        return keras.VarianceScaling(1.0 / 3.0, "fan_in", "uniform")
    if name == "uniform":
        assert number is not None  # as _NEEDS_NUMBER says
        return keras.RandomUniform(-number, number)
    if name == "normal":
        return keras.RandomNormal(0.0, number)
    if name == "orthogonal":
        return keras.Orthogonal(1.0 if number is None else number)
    return keras.get(name)
