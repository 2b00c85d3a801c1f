"""What any Keras layer needs to run as a pure function of the run's key: initial values, random states, short loops."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from rlresearch.errors import ConfigError

# Keras has no types.
KerasModel: TypeAlias = Any
KerasLayer: TypeAlias = Any
KerasVariable: TypeAlias = Any
KerasInitializer: TypeAlias = Any

SEED_STATE = "seed_generator_state"  # Keras' name for the random state of a layer that draws
UNROLLED = 16  # time steps up to which a recurrent layer is a chain of steps; a loop of more compiles faster
_GLOBAL_DRAWS = ("RandomStandardNormal", "RandomUniform", "RandomUniformInt", "TruncatedNormal", "Multinomial")


def prepare(model: KerasModel) -> None:
    """Unrolls short recurrent layers, and refuses layers whose draws do not follow from the run's key.

    Inside a population XLA compiles no recurrent layer as a loop. A layer is unrolled alone too, so that a member
    computes what it would compute alone. Errors: ConfigError.
    """
    for layer in layers_of(model):
        for each in (layer, getattr(layer, "forward_layer", None), getattr(layer, "backward_layer", None)):
            if isinstance(each, tf.keras.layers.RNN) and 0 < (layer.input.shape[1] or 0) <= UNROLLED:
                each.unroll = True
    if any(not _is_plain(layer) for layer in layers_of(model)):
        _refuse_hidden_state(model)


def initializer_of(model: KerasModel, variable: KerasVariable) -> KerasInitializer | None:
    """The initializer of a variable, by Keras' convention layer.<variable name>_initializer; None without one."""
    for layer in layers_of(model):
        if any(variable is owned for owned in layer.trainable_variables):
            return getattr(layer, f"{variable.name}_initializer", None)
    return None


def draw(initializer: KerasInitializer, seed: int, variable: KerasVariable) -> tf.Tensor:
    """The initial value of a variable, in its shape, from an initializer with another seed."""
    config = initializer.get_config() if hasattr(initializer, "get_config") else {}
    if "seed" in config:
        initializer = type(initializer).from_config({**config, "seed": seed})
    return tf.convert_to_tensor(initializer(variable.shape, dtype=variable.dtype))


def rebuilt(build: Callable[[], KerasModel], seed: int) -> KerasModel:
    """The model of `build`, whose initial values follow from `seed`.

    Keras seeds an initializer without a seed from Python's random numbers. Those, and NumPy's, continue afterwards as
    if nothing had been drawn.
    """
    with seeded(seed):
        return build()


def varies(build: Callable[[], KerasModel], model: KerasModel, statistics_alone: bool) -> bool:
    """Whether the initial values of `build` change with the seed; `model` was built from seed 0.

    statistics_alone: looks only at variables that get no gradients. Errors: ConfigError where a value changes although
    the seed does not: it could not follow from the run's key.
    """
    first, second = rebuilt(build, 1), rebuilt(build, 1)
    for variable, again, own in zip(first.variables, second.variables, model.variables, strict=True):
        if variable.shape != own.shape or not np.array_equal(variable.value, again.value):
            raise ConfigError(
                f"network variable {own.path!r} has an initial value that does not follow from the run's seed: its "
                f"layer needs an attribute '{own.name}_initializer', from which the run's seed draws it."
            )
    asked = [each.non_trainable_variables if statistics_alone else each.variables for each in (first, model)]
    pairs = zip(*asked, strict=True)
    return any(not np.array_equal(one.value, other.value) for one, other in pairs if one.name != SEED_STATE)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python's and NumPy's random numbers from a seed; afterwards they continue where they were."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def layers_of(model: KerasModel) -> list[KerasLayer]:
    """All layers of a model, with the layers of nested models in their place."""
    found = []
    for layer in model.layers:
        found += layers_of(layer) if hasattr(layer, "layers") else [layer]
    return found


def _is_plain(layer: KerasLayer) -> bool:
    """Whether a layer is Keras' or ours, and runs no code of a user's."""
    layers = tf.keras.layers
    known = type(layer).__module__.startswith(("keras.src.", "rlresearch.networks."))
    return known and not isinstance(layer, layers.Lambda | layers.Wrapper | layers.RNN)


def _refuse_hidden_state(model: KerasModel) -> None:
    """ConfigError where a layer draws from global random numbers or has variables that Keras does not know.

    The graph of one training call shows both.
    """
    values = [[v.value for v in variables] for variables in (model.trainable_variables, model.non_trainable_variables)]
    inputs = [tf.zeros((2, *each.shape[1:]), each.dtype) for each in model.inputs]

    def call(trainable: list[tf.Tensor], fixed: list[tf.Tensor], inputs: list[tf.Tensor]) -> tf.Tensor:
        return model.stateless_call(trainable, fixed, inputs[0] if len(inputs) == 1 else inputs, training=True)[0]

    graph = tf.function(call, autograph=False).get_concrete_function(*values, inputs).graph
    graphs = [graph, *(each.graph for each in graph._functions.values() if hasattr(each, "graph"))]
    drawn = [each.name for some in graphs for each in some.get_operations() if each.type in _GLOBAL_DRAWS]
    kept = [inner.name for outer, inner in graph.captures if outer.dtype == tf.resource]
    if drawn or kept:
        raise ConfigError(
            f"network: {(drawn + kept)[0]!r} in a layer draws random numbers, or holds a value, outside of the layer's "
            "variables: the run would not follow from its seed. Draw by keras.random with seed=self.seed_generator, a "
            "keras.random.SeedGenerator; make variables by self.add_weight."
        )
