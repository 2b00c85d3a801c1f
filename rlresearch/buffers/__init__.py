"""Buffers: stores of transitions, as `types.Buffer` describes them. `conf/buffer` names these."""

from rlresearch.buffers.online import OnlineBuffer
from rlresearch.buffers.packing import pack, unpack
from rlresearch.buffers.prioritized import Prioritized, PrioritizedState
from rlresearch.buffers.ring import RingState, add_rows, empty_ring, gather_batch, next_indices
from rlresearch.buffers.rollout import Rollout, RolloutState
from rlresearch.buffers.uniform import Uniform

# Their names until version 0.2, which users' own buffers import.
Latest, Rows, Steps, PrioritizedRows = OnlineBuffer, RingState, RolloutState, PrioritizedState
empty_rows, drawn, next_places, lay_out, take_apart = empty_ring, gather_batch, next_indices, pack, unpack

__all__ = [
    "OnlineBuffer",
    "Prioritized",
    "PrioritizedState",
    "RingState",
    "Rollout",
    "RolloutState",
    "Uniform",
    "add_rows",
    "empty_ring",
    "gather_batch",
    "next_indices",
    "pack",
    "unpack",
]
