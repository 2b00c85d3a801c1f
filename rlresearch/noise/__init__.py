"""Exploration: noise added to actions in [-1, 1], or a choice among discrete actions. `conf/noise` names these."""

from rlresearch.noise.discrete import Boltzmann, EpsilonGreedy, Greedy
from rlresearch.noise.gaussian import Gaussian, NoNoise
from rlresearch.noise.ornstein_uhlenbeck import OrnsteinUhlenbeck
from rlresearch.noise.protocols import Exploration, Noise

__all__ = [
    "Boltzmann",
    "EpsilonGreedy",
    "Exploration",
    "Gaussian",
    "Greedy",
    "NoNoise",
    "Noise",
    "OrnsteinUhlenbeck",
]
