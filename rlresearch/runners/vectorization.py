"""Rules that `tf.vectorized_map` lacks: for convolutions with a kernel for each member, and for draws of Keras layers.

`tf.vectorized_map` rewrites a member's graph, operation by operation, into one graph for all members. TensorFlow
registers a rewriting rule for each kind of operation. It has no rule for a convolution whose kernels differ between
members, nor for the random numbers that Keras layers draw. `register` adds these rules.

Shapes: M members, B rows of a batch, C channels of the input, F filters, G groups of channels, K positions of a kernel.
Spatial axes: one, two or three; height and width of an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import tensorflow as tf
from tensorflow.python.ops.parallel_for import pfor

from rlresearch.errors import ConfigError

# TensorFlow has no types for them: an operation with its inputs; a tensor, and whether members differ in it.
PforInput: TypeAlias = Any
Wrapped: TypeAlias = Any
Rule = Callable[[PforInput], Wrapped]

_DRAWS = (
    "StatelessRandomGetKeyCounter",
    "StatelessRandomNormalV2",
    "StatelessRandomUniformFullIntV2",
    "StatelessRandomUniformIntV2",
    "StatelessRandomUniformV2",
    "StatelessShuffle",
    "StatelessTruncatedNormalV2",
)


def register() -> None:
    """Adds the rules for this process. A second call changes nothing."""
    rules = pfor._pfor_converter_registry
    if _DRAWS[0] in rules:
        return
    rules |= dict.fromkeys(_DRAWS, _one_by_one)
    for names, rule, decides in (
        (("Conv2D", "Conv3D"), _convolution, 1),
        (("Conv2DBackpropInput", "Conv3DBackpropInputV2"), _input_gradient, 1),
        (("Conv2DBackpropFilter", "Conv3DBackpropFilterV2"), _kernel_gradient, 0),
    ):
        rules |= {name: _where_stacked(decides, rule, rules.get(name, rule)) for name in names}


def refuse_uncompilable(graph: tf.Graph) -> None:
    """ConfigError where a mapped graph has operations that XLA cannot compile: those of a recurrent layer's loop."""
    for operation in graph.get_operations():
        if operation.type.startswith("TensorList"):
            raise ConfigError(
                "network: a recurrent layer over so many steps cannot run in a population, as XLA does not compile its "
                "loop for several members. Give it unroll=True, or train with runner=device or runner=host."
            )


def _where_stacked(index: int, rule: Rule, shared: Rule) -> Rule:
    """`rule` where members differ in the input of that index, `shared` where all have the same."""
    return lambda pfor_input: (rule if pfor_input.input(index).is_stacked else shared)(pfor_input)


def _one_by_one(pfor_input: PforInput) -> list[Wrapped]:
    """The operation for one member after the other. Each member's numbers are those that it would draw alone."""
    members = int(tf.get_static_value(pfor_input.pfor.loop_len_vector)[0])
    operation, inputs = pfor_input.op, [pfor_input.input(i) for i in range(pfor_input.num_inputs)]
    attributes, dtypes = operation.node_def.attr, [each.dtype for each in operation.outputs]

    def of(member: tf.Tensor) -> list[tf.Tensor]:
        own = [each.t[member] if each.is_stacked else each.t for each in inputs]
        return list(pfor._create_op(operation.type, own, dtypes, attributes).outputs)

    def step(member: tf.Tensor, *filled: tf.Tensor) -> tuple[tf.Tensor, ...]:
        rows = zip(filled, of(member), strict=True)
        return member + 1, *(tf.tensor_scatter_nd_update(every, member[None, None], row[None]) for every, row in rows)

    filled = [tf.zeros((members, *each.shape), each.dtype) for each in of(tf.constant(0))]
    _, *filled = tf.while_loop(
        lambda member, *_: member < members, step, (tf.constant(0), *filled), maximum_iterations=members
    )
    return [pfor.wrap(each, True) for each in filled]


class _Window(NamedTuple):
    """How a kernel moves over an input. Each field has one number, or one pair, for each spatial axis.

    size: of the kernel. strides, dilations: in cells of the input. padding: cells of zeros (before, after). outputs: of
    the convolution. inputs: of its input.
    """

    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def _window(operation: tf.Operation, inputs: Sequence[int], size: Sequence[int]) -> _Window:
    if operation.get_attr("data_format") not in (b"NHWC", b"NDHWC"):
        raise NotImplementedError(
            f"{operation.type} with {operation.get_attr('data_format')}: channels must stand last"
        )
    strides, dilations = (tuple(operation.get_attr(name)[1:-1]) for name in ("strides", "dilations"))
    reach = [dilation * (cells - 1) + 1 for dilation, cells in zip(dilations, size, strict=True)]
    kind = operation.get_attr("padding")
    if kind == b"SAME":
        missing = [max((-(-n // s) - 1) * s + r - n, 0) for n, s, r in zip(inputs, strides, reach, strict=True)]
        padding = [(each // 2, each - each // 2) for each in missing]
    elif kind == b"EXPLICIT":
        explicit = operation.get_attr("explicit_paddings")
        padding = [(explicit[2 * axis], explicit[2 * axis + 1]) for axis in range(1, len(inputs) + 1)]
    else:
        padding = [(0, 0)] * len(inputs)
    outputs = [(n + sum(pad) - r) // s + 1 for n, pad, r, s in zip(inputs, padding, reach, strides, strict=True)]
    return _Window(tuple(size), strides, dilations, tuple(padding), tuple(inputs), tuple(outputs))


def _patches(x: tf.Tensor, window: _Window) -> tf.Tensor:
    """What each kernel position sees: [M, B, *outputs, K, C] for inputs [M, B, *inputs, C]."""
    x = tf.pad(x, [(0, 0), (0, 0), *window.padding, (0, 0)])
    seen = []
    for position in product(*map(range, window.size)):
        cells = [
            slice(at * dilation, at * dilation + (outputs - 1) * stride + 1, stride)
            for at, dilation, outputs, stride in zip(
                position, window.dilations, window.outputs, window.strides, strict=True
            )
        ]
        seen.append(x[(slice(None), slice(None), *cells)])
    return tf.stack(seen, axis=-2)


def _spread(patches: tf.Tensor, window: _Window) -> tf.Tensor:
    """The transpose of `_patches`: adds each cell of the patches to the input cell that it shows."""
    members, rows, channels = patches.shape[0], patches.shape[1], patches.shape[-1]
    padded = [n + sum(pad) for n, pad in zip(window.inputs, window.padding, strict=True)]
    total = tf.zeros((members, rows, *padded, channels), patches.dtype)
    for index, position in enumerate(product(*map(range, window.size))):
        x = patches[..., index, :]
        for axis, (outputs, stride, dilation, at, n) in enumerate(
            zip(window.outputs, window.strides, window.dilations, position, padded, strict=True), start=2
        ):
            shape = x.shape
            x = tf.reshape(x, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
            x = tf.pad(x, [(0, stride - 1 if each == axis + 1 else 0) for each in range(len(x.shape))])
            x = tf.reshape(x, (*shape[:axis], outputs * stride, *shape[axis + 1 :]))
            x = x[(*[slice(None)] * axis, slice(0, (outputs - 1) * stride + 1))]
            before = at * dilation
            after = n - before - x.shape[axis]
            x = tf.pad(x, [(before, after) if each == axis else (0, 0) for each in range(len(x.shape))])
        total += x
    inner = [slice(before, before + n) for (before, _), n in zip(window.padding, window.inputs, strict=True)]
    return total[(slice(None), slice(None), *inner)]


def _grouped(kernel: tf.Tensor, groups: int) -> tf.Tensor:
    """[M, K, C / G, G, F / G] of kernels [M, *size, C / G, F]."""
    members, *size, channels, filters = kernel.shape
    return tf.reshape(kernel, (members, math.prod(size), channels, groups, filters // groups))


def _convolution(pfor_input: PforInput) -> Wrapped:
    pfor_input.stack_inputs()
    x, kernel = pfor_input.stacked_input(0), pfor_input.stacked_input(1)
    window = _window(pfor_input.op, x.shape[2:-1], kernel.shape[1:-2])
    groups = x.shape[-1] // kernel.shape[-2]
    patches = _patches(x, window)
    patches = tf.reshape(patches, (x.shape[0], -1, patches.shape[-2], groups, kernel.shape[-2]))
    y = tf.einsum("mnkgc,mkcgf->mngf", patches, _grouped(kernel, groups))
    return pfor.wrap(tf.reshape(y, (*x.shape[:2], *window.outputs, kernel.shape[-1])), True)


def _input_gradient(pfor_input: PforInput) -> Wrapped:
    pfor_input.stack_inputs([1, 2])
    kernel, grad = pfor_input.stacked_input(1), pfor_input.stacked_input(2)
    _, *inputs, channels = pfor_input.op.outputs[0].shape
    window = _window(pfor_input.op, inputs, kernel.shape[1:-2])
    groups = channels // kernel.shape[-2]
    members, rows, *_, filters = grad.shape
    parts = tf.reshape(grad, (members, -1, groups, filters // groups))
    patches = tf.einsum("mngf,mkcgf->mnkgc", parts, _grouped(kernel, groups))
    patches = tf.reshape(patches, (members, rows, *window.outputs, -1, channels))
    return pfor.wrap(_spread(patches, window), True)


def _kernel_gradient(pfor_input: PforInput) -> Wrapped:
    pfor_input.stack_inputs([0, 2])
    x, grad = pfor_input.stacked_input(0), pfor_input.stacked_input(2)
    *size, channels, filters = pfor_input.op.outputs[0].shape  # the input that says so is no constant here
    window = _window(pfor_input.op, x.shape[2:-1], size)
    groups = x.shape[-1] // channels
    patches = _patches(x, window)
    patches = tf.reshape(patches, (x.shape[0], -1, patches.shape[-2], groups, channels))
    parts = tf.reshape(grad, (x.shape[0], -1, groups, filters // groups))
    kernel = tf.einsum("mnkgc,mngf->mkcgf", patches, parts)
    return pfor.wrap(tf.reshape(kernel, (x.shape[0], *size, channels, filters)), True)
