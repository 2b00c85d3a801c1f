"""How often to return to Python; nothing about reinforcement learning. `conf/runner` names these."""

from rlresearch.runners.parts import PBT, Device, Host, Population, RunnerPart

__all__ = ["PBT", "Device", "Host", "Population", "RunnerPart"]
