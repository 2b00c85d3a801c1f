"""Keras networks as pure functions. `conf/network` names the classes of `mlp`; any class with `model` will do."""

from rlresearch.networks.functional import Network, NetworkBuilder, Outputs, Params, bind
from rlresearch.networks.initializers import INITIALIZERS, keras_initializer, parse_initializer
from rlresearch.networks.mlp import MLP, Activation, QNetwork, size_of

Part, QMLP = NetworkBuilder, QNetwork  # their names until version 0.2

__all__ = [
    "INITIALIZERS",
    "MLP",
    "QNetwork",
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
