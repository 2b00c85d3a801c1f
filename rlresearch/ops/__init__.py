"""The mathematics of reinforcement learning as pure functions: no networks, no state. Names follow rlax."""

from rlresearch.ops.advantage import (
    backward_sum,
    clipped_objective,
    clipped_value_error,
    generalized_advantage,
    rollout_advantage,
    standardized,
)
from rlresearch.ops.derivatives import batch_grad, batch_jacobian, grad, jacobian
from rlresearch.ops.distributional import categorical_projection, kl_divergence, quantile_huber_loss
from rlresearch.ops.entropy import expected_soft_value, soft_value, temperature_gradient, temperature_loss
from rlresearch.ops.td import (
    discount,
    every,
    huber,
    index_by_action,
    n_step_return,
    polyak,
    td_target,
    value_and_grad,
)

# Names until version 0.2.
chosen = index_by_action
due = every

__all__ = [
    "backward_sum",
    "batch_grad",
    "batch_jacobian",
    "categorical_projection",
    "clipped_objective",
    "clipped_value_error",
    "discount",
    "every",
    "expected_soft_value",
    "generalized_advantage",
    "grad",
    "huber",
    "index_by_action",
    "jacobian",
    "kl_divergence",
    "n_step_return",
    "polyak",
    "quantile_huber_loss",
    "rollout_advantage",
    "soft_value",
    "standardized",
    "td_target",
    "temperature_gradient",
    "temperature_loss",
    "value_and_grad",
]
