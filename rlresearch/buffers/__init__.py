"""Where transitions wait to be learned from; `types.Buffer` says what a buffer offers. `conf/buffer` names these."""

from rlresearch.buffers.latest import Latest
from rlresearch.buffers.prioritized import Prioritized, PrioritizedRows
from rlresearch.buffers.ring import Rows, add_rows, drawn, empty_rows, lay_out, next_places, take_apart
from rlresearch.buffers.rollout import Rollout, Steps
from rlresearch.buffers.uniform import Uniform

__all__ = [
    "Latest",
    "Prioritized",
    "PrioritizedRows",
    "Rollout",
    "Rows",
    "Steps",
    "Uniform",
    "add_rows",
    "drawn",
    "empty_rows",
    "lay_out",
    "next_places",
    "take_apart",
]
