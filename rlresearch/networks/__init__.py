"""Keras networks as pure functions. `conf/network` names the parts of `mlp`; any other class with `model` will do."""

from rlresearch.networks.functional import Network, NetworkBuilder, Outputs, Params, bind
from rlresearch.networks.initializers import INITIALIZERS, keras_initializer, parse_initializer
from rlresearch.networks.mlp import MLP, QMLP, Activation, size_of

Part = NetworkBuilder  # its name until version 0.2

__all__ = [
    "INITIALIZERS",
    "MLP",
    "QMLP",
    "Activation",
    "Network",
    "NetworkBuilder",
    "Outputs",
    "Params",
    "bind",
    "keras_initializer",
    "parse_initializer",
    "size_of",
]
