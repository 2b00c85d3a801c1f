"""Optimizers as pure functions: `init(params) -> state`, `update(...) -> (params, state)`.

Keras' optimizers need variables on TensorFlow (`stateless_apply` raises). These have the same arithmetic; tests compare
them step by step. Sources: Adam, Kingma & Ba 2015 (with the epsilon
of the formula before their section 2.1); AdamW, Loshchilov & Hutter 2019; RMSProp, Hinton 2012, with the
centered form of Graves 2013; SGD with momentum, and Nesterov's form of Sutskever et al. 2013.

params and grads: the same `tf.nest` structure of float32 tensors. A *kernel* is a parameter of rank 2 or
more; biases and scales have rank 1. The order of an update, as in Keras:
1. `l2` is part of the loss (`l2 * sum(kernel ** 2)`), so its gradient `2 * l2 * kernel` is added first;
2. `max_grad_value` clips each element to [-value, value];
3. `max_grad_norm` scales all gradients together so that their global norm is at most this;
4. the rule takes a step of `lr * schedule(progress) * lr_scale`.

Float fields may be float32 scalar tensors, one value for each member of a population. Then a state has what any value
needs, so call `init` and `update` on the same optimizer.

Differences from Keras:
1. Hyperparameters are rounded to float32 before `1 - b2` and the like are taken (Keras takes them in float64),
   so that a member whose `b2` is a tensor moves like the same optimizer with a Python number. This
   multiplies Adam's `v` by 1 - 1.3e-5 at b2 = 0.999.
2. Clipping by value and by norm can be combined, and a gradient inside the bounds is not touched by a bit.
3. `l2` and `weight_decay` reach kernels only.
4. The centered variance of RMSProp is kept from falling below 0 by rounding.

The defaults here are Keras'. Its epsilon of Adam, 1e-7, is not the paper's 1e-8. `conf/optimizer` has its own values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple, Protocol

import annotated_types as at
import tensorflow as tf

from rlresearch.ranges import NonNegativeFloat, PositiveFloat
from rlresearch.schedules import Constant, Schedule
from rlresearch.types import Progress, Tree

Decay = Annotated[float, at.Interval(ge=0, lt=1)]


class Optimizer(Protocol):
    """What the group `optimizer` offers to an algorithm."""

    def init(self, params: Tree) -> Tree:
        """The state before the first step; moments are shaped like `params`."""

    def update(
        self, grads: Tree, state: Tree, params: Tree, progress: Progress, lr_scale: float | tf.Tensor = 1.0
    ) -> tuple[Tree, Tree]:
        """(params, state) after one step down `grads`, shaped like `params`. lr_scale: multiplies the learning rate."""


class AdamState(NamedTuple):
    """count: int64 scalar, steps taken. m, v: running means of the gradient and of its square, shaped like params."""

    count: tf.Tensor
    m: Tree
    v: Tree


class RMSPropState(NamedTuple):
    """Shaped like params. v: running mean of the squared gradient. mean: of the gradient, if centered, else ().

    trace: the last change, with momentum, else ().
    """

    v: Tree
    mean: Tree
    trace: Tree


class SGDState(NamedTuple):
    """trace: the last change, shaped like params; () without momentum."""

    trace: Tree


@dataclass(frozen=True)
class Adam:
    """m and v follow the gradient and its square; the step is `lr * m_hat / (sqrt(v_hat) + eps_hat)`."""

    lr: PositiveFloat = 1e-3
    b1: Decay = 0.9
    b2: Decay = 0.999
    eps: PositiveFloat = 1e-7
    l2: NonNegativeFloat = 0.0
    max_grad_norm: PositiveFloat | None = None
    max_grad_value: PositiveFloat | None = None
    schedule: Schedule = field(default_factory=Constant)

    def init(self, params: Tree) -> AdamState:
        """No steps taken, both means 0, shaped like `params`."""
        return _adam_init(params)

    def update(
        self, grads: Tree, state: AdamState, params: Tree, progress: Progress, lr_scale: float | tf.Tensor = 1.0
    ) -> tuple[Tree, AdamState]:
        """One step down `grads`. lr_scale: number or float32 scalar that multiplies `lr`."""
        return _adam_step(
            self, effective_gradients(self, grads, params), state, params, _rate(self, progress, lr_scale)
        )


@dataclass(frozen=True)
class AdamW:
    """Adam after kernels have shrunk by `lr * weight_decay` of themselves, which no moment sees."""

    lr: PositiveFloat = 1e-3
    b1: Decay = 0.9
    b2: Decay = 0.999
    eps: PositiveFloat = 1e-7
    weight_decay: NonNegativeFloat = 0.004
    l2: NonNegativeFloat = 0.0
    max_grad_norm: PositiveFloat | None = None
    max_grad_value: PositiveFloat | None = None
    schedule: Schedule = field(default_factory=Constant)

    def init(self, params: Tree) -> AdamState:
        """No steps taken, both means 0, shaped like `params`."""
        return _adam_init(params)

    def update(
        self, grads: Tree, state: AdamState, params: Tree, progress: Progress, lr_scale: float | tf.Tensor = 1.0
    ) -> tuple[Tree, AdamState]:
        """One step down `grads`. lr_scale: number or float32 scalar that multiplies `lr`, and so the decay."""
        lr = _rate(self, progress, lr_scale)
        grads = effective_gradients(self, grads, params)
        if not _is_zero(self.weight_decay):
            params = _map(lambda p: p - p * self.weight_decay * lr if _is_kernel(p) else p, params)
        return _adam_step(self, grads, state, params, lr)


@dataclass(frozen=True)
class RMSProp:
    """The step is `lr * g / sqrt(v + eps)`, with `v - mean ** 2` for v if centered; eps is inside the root."""

    lr: PositiveFloat = 1e-3
    rho: Decay = 0.9
    momentum: Decay = 0.0
    eps: PositiveFloat = 1e-7
    centered: bool = False
    l2: NonNegativeFloat = 0.0
    max_grad_norm: PositiveFloat | None = None
    max_grad_value: PositiveFloat | None = None
    schedule: Schedule = field(default_factory=Constant)

    def init(self, params: Tree) -> RMSPropState:
        """All means 0, shaped like `params`."""
        return RMSPropState(
            v=_zeros(params),
            mean=_zeros(params) if self.centered else (),
            trace=() if _is_zero(self.momentum) else _zeros(params),
        )

    def update(
        self, grads: Tree, state: RMSPropState, params: Tree, progress: Progress, lr_scale: float | tf.Tensor = 1.0
    ) -> tuple[Tree, RMSPropState]:
        """One step down `grads`. lr_scale: number or float32 scalar that multiplies `lr`."""
        lr, rho = _rate(self, progress, lr_scale), _f32(self.rho)
        grads = effective_gradients(self, grads, params)
        v = _map(lambda v, g: rho * v + (1.0 - rho) * tf.square(g), state.v, grads)
        mean, variance = (), v
        if self.centered:
            mean = _map(lambda mean, g: rho * mean + (1.0 - rho) * g, state.mean, grads)
            variance = _map(lambda v, mean: tf.maximum(v - tf.square(mean), 0.0), v, mean)
        change = _map(lambda g, x: lr * g / tf.sqrt(x + self.eps), grads, variance)
        trace = ()
        if not _is_zero(self.momentum):
            trace = change = _map(lambda t, c: self.momentum * t + c, state.trace, change)
        return _map(tf.subtract, params, change), RMSPropState(v, mean, trace)


@dataclass(frozen=True)
class SGD:
    """The step is `lr * g`; with momentum, the change is `momentum` times the last one, less that."""

    lr: PositiveFloat = 0.01
    momentum: Decay = 0.0
    nesterov: bool = False
    l2: NonNegativeFloat = 0.0
    max_grad_norm: PositiveFloat | None = None
    max_grad_value: PositiveFloat | None = None
    schedule: Schedule = field(default_factory=Constant)

    def init(self, params: Tree) -> SGDState:
        """The last change 0, shaped like `params`, or () without momentum."""
        return SGDState(() if _is_zero(self.momentum) else _zeros(params))

    def update(
        self, grads: Tree, state: SGDState, params: Tree, progress: Progress, lr_scale: float | tf.Tensor = 1.0
    ) -> tuple[Tree, SGDState]:
        """One step down `grads`. lr_scale: number or float32 scalar that multiplies `lr`."""
        lr = _rate(self, progress, lr_scale)
        grads = effective_gradients(self, grads, params)
        if _is_zero(self.momentum):
            return _map(lambda p, g: p - lr * g, params, grads), state
        trace = _map(lambda t, g: self.momentum * t - lr * g, state.trace, grads)
        if not self.nesterov:
            return _map(tf.add, params, trace), SGDState(trace)
        return _map(lambda p, t, g: p + (self.momentum * t - lr * g), params, trace, grads), SGDState(trace)


def global_norm(grads: Tree) -> tf.Tensor:
    """The Euclidean norm float32 scalar of all gradients together."""
    # Not tf.linalg.global_norm: its L2Loss cannot be mapped over members. Columns first, because XLA sums columns in
    # parallel, but a whole tensor number by number. `abs` changes no value; without it XLA sums whole tensors again.
    rows = [tf.reshape(g, (-1, g.shape[-1] if g.shape.rank else 1)) for g in tf.nest.flatten(grads)]
    columns = tf.concat([tf.reduce_sum(tf.square(each), axis=0) for each in rows], axis=0)
    return tf.sqrt(tf.reduce_sum(tf.abs(columns)))


def _adam_init(params: Tree) -> AdamState:
    return AdamState(tf.zeros((), tf.int64), _zeros(params), _zeros(params))


def _adam_step(
    adam: Adam | AdamW, grads: Tree, state: AdamState, params: Tree, lr: tf.Tensor
) -> tuple[Tree, AdamState]:
    b1, b2 = _f32(adam.b1), _f32(adam.b2)
    count = state.count + 1
    t = tf.cast(count, tf.float32)
    # Both bias corrections in one scalar, instead of two more tensors the size of the parameters.
    alpha = lr * tf.sqrt(1.0 - tf.pow(b2, t)) / (1.0 - tf.pow(b1, t))
    m = _map(lambda m, g: m + (g - m) * (1.0 - b1), state.m, grads)
    v = _map(lambda v, g: v + (tf.square(g) - v) * (1.0 - b2), state.v, grads)
    params = _map(lambda p, m, v: p - m * alpha / (tf.sqrt(v) + adam.eps), params, m, v)
    return params, AdamState(count, m, v)


def _rate(optimizer: Any, progress: Progress, lr_scale: float | tf.Tensor) -> tf.Tensor:
    return optimizer.lr * optimizer.schedule(progress) * lr_scale


def effective_gradients(optimizer: Any, grads: Tree, params: Tree) -> Tree:
    """The gradients for the update rule, shaped like `params`: with l2 added, then clipped."""
    if not _is_zero(optimizer.l2):
        twice = 2.0 * _f32(optimizer.l2)
        grads = _map(lambda g, p: g + twice * p if _is_kernel(p) else g, grads, params)
    if optimizer.max_grad_value is not None:
        most = _f32(optimizer.max_grad_value)
        grads = _map(lambda g: tf.minimum(tf.maximum(g, -most), most), grads)
    if optimizer.max_grad_norm is not None:
        grads = _norm_clipped(grads, _f32(optimizer.max_grad_norm))
    return grads


def _norm_clipped(grads: Tree, most: tf.Tensor) -> Tree:
    norm = global_norm(grads)
    # A norm that is not finite makes every gradient NaN, which the run reports. Zeroing some would hide it.
    scale = tf.where(norm > most, most / norm, 1.0) + (norm - norm)
    return _map(lambda g: g * scale, grads)


def _is_kernel(param: tf.Tensor) -> bool:
    return param.shape.rank >= 2


def _is_zero(value: float | tf.Tensor) -> bool:
    """Whether a field is the Python number 0, so that its computation can be skipped. A tensor is never."""
    return isinstance(value, (int, float)) and value == 0


def _f32(value: float | tf.Tensor) -> tf.Tensor:
    return tf.convert_to_tensor(value, tf.float32)


def _zeros(params: Tree) -> Tree:
    return _map(tf.zeros_like, params)


def _map(function: Callable[..., tf.Tensor], *trees: Tree) -> Tree:
    return tf.nest.map_structure(function, *trees)
