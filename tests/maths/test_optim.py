"""Optimizers: step by step beside keras.optimizers, first steps by hand, and alike alone and mapped."""

import dataclasses
import typing

import keras
import numpy as np
import pydantic
import pytest
import tensorflow as tf

from rlresearch import optim
from rlresearch.schedules import Constant, Exponential, Linear
from rlresearch.types import Progress

KINDS = [optim.Adam, optim.AdamW, optim.RMSProp, optim.SGD]
SHAPES = [(4, 3), (3,), (2, 2, 3)]
STEPS = 20

# Ours, and how Keras says the same. The learning rates are large so that 20 steps go far.
RULES = {
    "adam": (optim.Adam(lr=0.02), lambda: keras.optimizers.Adam(0.02)),
    "adam, other moments": (
        optim.Adam(lr=0.02, b1=0.5, b2=0.9, eps=1e-3),
        lambda: keras.optimizers.Adam(0.02, beta_1=0.5, beta_2=0.9, epsilon=1e-3),
    ),
    "adamw": (optim.AdamW(lr=0.02, weight_decay=0.1), lambda: keras.optimizers.AdamW(0.02, weight_decay=0.1)),
    "rmsprop": (optim.RMSProp(lr=0.02), lambda: keras.optimizers.RMSprop(0.02)),
    "rmsprop, momentum": (
        optim.RMSProp(lr=0.02, rho=0.8, momentum=0.5, eps=1e-4),
        lambda: keras.optimizers.RMSprop(0.02, rho=0.8, momentum=0.5, epsilon=1e-4),
    ),
    # Without a larger eps the variance of the first steps is a difference of almost equal numbers.
    "rmsprop, centered": (
        optim.RMSProp(lr=0.02, centered=True, eps=1e-2),
        lambda: keras.optimizers.RMSprop(0.02, centered=True, epsilon=1e-2),
    ),
    "rmsprop, centered, momentum": (
        optim.RMSProp(lr=0.02, centered=True, momentum=0.9, eps=1e-2),
        lambda: keras.optimizers.RMSprop(0.02, centered=True, momentum=0.9, epsilon=1e-2),
    ),
    "sgd": (optim.SGD(lr=0.05), lambda: keras.optimizers.SGD(0.05)),
    "sgd, momentum": (optim.SGD(lr=0.05, momentum=0.9), lambda: keras.optimizers.SGD(0.05, momentum=0.9)),
    "sgd, nesterov": (
        optim.SGD(lr=0.05, momentum=0.9, nesterov=True),
        lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    ),
}

# What is added to a rule: our fields, Keras' attributes.
ADDITIONS = {
    "alone": ({}, {}),
    "norm clipped": ({"max_grad_norm": 3.0}, {"global_clipnorm": 3.0}),
    "value clipped": ({"max_grad_value": 0.4}, {"clipvalue": 0.4}),
    "l2, schedule": ({"l2": 0.2, "schedule": Exponential(rate=0.8, per="step")}, {}),
    "l2, schedule, norm clipped": (
        {"l2": 0.2, "schedule": Linear(start=1.0, end=0.2, over=15), "max_grad_norm": 3.0},
        {"global_clipnorm": 3.0},
    ),
}


def at(step):
    return Progress(tf.constant(step, tf.int64), tf.constant(0.0), tf.constant(step, tf.int64))


NOW = at(0)


def tensors(seed, scale=1.0):
    draw = np.random.default_rng(seed)
    return [tf.constant(draw.normal(size=shape) * scale, tf.float32) for shape in SHAPES]


def gradients(step):
    return tensors(100 + step, scale=0.3 + (step % 3))  # some steps are clipped, some are not


def is_kernel(param):
    return len(param.shape) >= 2


def largest_difference(ours, theirs):
    return max(np.abs(a.numpy() - np.asarray(b)).max() for a, b in zip(ours, theirs))


def keras_steps(theirs, params, l2, schedule):
    """The parameters after each step of a Keras optimizer; l2 enters as Keras' regularizer does, through the loss."""
    base = float(theirs.learning_rate)
    variables = [tf.Variable(param) for param in params]
    if theirs.weight_decay is not None:
        theirs.exclude_from_weight_decay(var_list=[v for v in variables if not is_kernel(v)])
    theirs.build(variables)
    for step in range(STEPS):
        theirs.learning_rate.assign(base * float(schedule(at(step))))
        with tf.GradientTape() as tape:
            loss = tf.add_n([tf.reduce_sum(g * v) for g, v in zip(gradients(step), variables)])
            loss += tf.add_n([keras.regularizers.L2(l2)(v) for v in variables if is_kernel(v)])
        theirs.apply_gradients(zip(tape.gradient(loss, variables), variables))
        yield [v.numpy() for v in variables]


@pytest.mark.parametrize("addition", ADDITIONS)
@pytest.mark.parametrize("rule", RULES)
def test_every_step_is_the_step_keras_takes(rule, addition):
    ours, make_theirs = RULES[rule]
    fields, attributes = ADDITIONS[addition]
    ours, theirs = dataclasses.replace(ours, **fields), make_theirs()
    for name, value in attributes.items():
        setattr(theirs, name, value)
    params = tensors(1)
    state = ours.init(params)
    for step, expected in enumerate(keras_steps(theirs, params, ours.l2, ours.schedule)):
        params, state = ours.update(gradients(step), state, params, at(step))
        assert largest_difference(params, expected) < 3e-6, f"step {step}"
    assert largest_difference(params, tensors(1)) > 0.05


def first_step(optimizer, param=2.0, grad=0.5):
    params, grads = [tf.constant([[param]]), tf.constant([param])], [tf.constant([[grad]]), tf.constant([grad])]
    (kernel, bias), _ = optimizer.update(grads, optimizer.init(params), params, NOW)
    return [kernel.numpy().item(), bias.numpy().item()]


@pytest.mark.parametrize(
    "optimizer, kernel, bias",
    [
        (optim.SGD(lr=0.1), 1.95, 1.95),
        (optim.SGD(lr=0.1, momentum=0.9), 1.95, 1.95),
        (optim.SGD(lr=0.1, momentum=0.9, nesterov=True), 1.905, 1.905),  # 2 + 0.9 * -0.05 - 0.05
        (optim.SGD(lr=0.1, l2=0.25), 1.85, 1.95),  # gradient 0.5 + 2 * 0.25 * 2
        (optim.SGD(lr=0.1, max_grad_value=0.2), 1.98, 1.98),
        (optim.SGD(lr=0.1, max_grad_norm=0.5**0.5 / 2), 1.975, 1.975),  # two gradients of 0.5: their norm is halved
        (optim.Adam(lr=0.1), 1.9, 1.9),  # the first step of Adam is lr, whatever the gradient
        (optim.AdamW(lr=0.1, weight_decay=0.5), 1.8, 1.9),  # 2 - 2 * 0.5 * 0.1 - 0.1
        (optim.RMSProp(lr=0.1, rho=0.9), 2 - 0.1 / 0.1**0.5, 2 - 0.1 / 0.1**0.5),
        (optim.RMSProp(lr=0.1, rho=0.9, centered=True), 2 - 0.1 / 0.09**0.5, 2 - 0.1 / 0.09**0.5),
    ],
)
def test_first_steps_are_as_computed_by_hand(optimizer, kernel, bias):
    np.testing.assert_allclose(first_step(optimizer), [kernel, bias], rtol=3e-6)


def test_sgd_takes_the_worked_critic_step():
    """DDPG by hand: Q(s, a) = 2, target 6.9, squared error, lr 0.01."""
    params = [tf.constant([[1.0], [3.0], [2.0], [1.0], [-3.0]]), tf.zeros((1,))]
    inputs, optimizer = tf.constant([[3.0, 2.0, 1.0, 6.0, 5.0]]), optim.SGD(lr=0.01)
    with tf.GradientTape() as tape:
        tape.watch(params)
        loss = tf.reduce_mean(tf.square(inputs @ params[0] + params[1] - 6.9))
    (kernel, bias), _ = optimizer.update(tape.gradient(loss, params), optimizer.init(params), params, NOW)
    np.testing.assert_allclose(loss, 24.01, rtol=1e-6)
    np.testing.assert_allclose(kernel[:, 0], [1.294, 3.196, 2.098, 1.588, -2.51], rtol=1e-6)
    np.testing.assert_allclose(bias, [0.098], rtol=1e-6)


def changed(optimizer, reference):
    """Which parameters move differently under two optimizers of a kind."""
    params, moved = tensors(2), []
    for each in (optimizer, reference):
        state, now = each.init(params), params
        for step in range(3):
            now, state = each.update(gradients(step), state, now, at(step))
        moved.append(now)
    return [not np.array_equal(a, b) for a, b in zip(*moved)]


@pytest.mark.parametrize("kind", KINDS)
def test_l2_reaches_kernels_only(kind):
    assert changed(kind(l2=0.3), kind()) == [len(shape) >= 2 for shape in SHAPES]


def test_weight_decay_reaches_kernels_only():
    kernels = [len(shape) >= 2 for shape in SHAPES]
    assert changed(optim.AdamW(weight_decay=0.3), optim.AdamW(weight_decay=0.0)) == kernels


def test_adamw_without_decay_is_adam():
    assert not any(changed(optim.AdamW(weight_decay=0.0), optim.Adam()))


def test_weight_decay_is_seen_by_no_moment():
    params, states = tensors(2), []
    for optimizer in (optim.AdamW(weight_decay=0.5), optim.Adam()):
        states.append(optimizer.update(gradients(0), optimizer.init(params), params, NOW)[1])
    tf.nest.map_structure(np.testing.assert_array_equal, *states)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bound", [1.7, 2.9, 3.4])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_clipping_leaves_small_gradients_untouched_bit_for_bit(kind, bound, jit_compile):
    # In float32 bound * (1 / bound) is not 1 for these bounds, which is how Keras would scale.
    params, grads = tensors(3), [g * bound / 40 for g in tensors(4)]
    assert 0 < optim.global_norm(grads) < bound

    @tf.function(jit_compile=jit_compile)
    def shaped(grads):
        return optim.effective_gradients(kind(max_grad_norm=bound, max_grad_value=bound), grads, params)

    tf.nest.map_structure(np.testing.assert_array_equal, shaped(grads), grads)


def test_norm_clipping_keeps_the_direction():
    grads = tensors(5)
    clipped = optim.effective_gradients(optim.SGD(max_grad_norm=0.5), grads, grads)
    np.testing.assert_allclose(optim.global_norm(clipped), 0.5, rtol=1e-6)
    ratio = 0.5 / optim.global_norm(grads)
    tf.nest.map_structure(lambda c, g: np.testing.assert_allclose(c, g * ratio, rtol=1e-6), clipped, grads)


def test_values_are_clipped_before_the_norm():
    grads = [tf.constant([30.0, 4.0])]
    clipped = optim.effective_gradients(optim.SGD(max_grad_value=3.0, max_grad_norm=1.0), grads, grads)
    np.testing.assert_allclose(clipped[0], [0.5**0.5, 0.5**0.5], rtol=1e-6)


def test_a_zero_gradient_survives_norm_clipping():
    grads = [tf.zeros((2, 2))]
    np.testing.assert_array_equal(
        optim.effective_gradients(optim.SGD(max_grad_norm=1.0), grads, grads)[0], np.zeros((2, 2))
    )


def test_an_infinite_gradient_is_seen_in_every_parameter():
    grads = [tf.constant([np.inf, 1.0]), tf.constant([1.0])]
    clipped = optim.effective_gradients(optim.SGD(max_grad_norm=1.0), grads, grads)
    assert all(np.isnan(g).all() for g in clipped)


def test_global_norm_is_that_of_all_gradients_end_to_end():
    assert optim.global_norm({"a": tf.constant([[3.0]]), "b": [tf.constant([4.0, 12.0])]}).numpy() == 13.0


def test_centered_variance_does_not_fall_below_zero():
    optimizer, params = optim.RMSProp(centered=True, eps=1e-12, rho=0.5), [tf.zeros((64,))]
    state, grads = optimizer.init(params), [tf.linspace(900.0, 1100.0, 64)]
    for _ in range(40):  # a constant gradient: the variance vanishes
        params, state = optimizer.update(grads, state, params, NOW)
    assert np.isfinite(params[0]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_schedule_and_lr_scale_multiply_the_learning_rate(kind):
    def moved(optimizer, **scale):
        params = tensors(6)
        return optimizer.update(gradients(0), optimizer.init(params), params, at(5), **scale)[0]

    half = moved(kind(lr=0.05))
    scheduled = moved(kind(lr=0.1, schedule=Linear(over=10)))
    scaled = moved(kind(lr=0.1), lr_scale=tf.constant(0.5))
    assert largest_difference(scheduled, half) < 1e-6 and largest_difference(scaled, half) < 1e-6
    assert largest_difference(moved(kind(lr=0.1)), half) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_any_structure_of_parameters_is_kept(kind):
    optimizer, params = kind(l2=0.1), {"actor": [tf.ones((2, 2)), tf.ones((2,))], "critic": (tf.ones((1, 1)),)}
    new, state = optimizer.update(params, optimizer.init(params), params, NOW)
    tf.nest.assert_same_structure(new, params)
    tf.nest.assert_same_structure(state, optimizer.init(params))


def test_no_state_is_kept_that_the_rule_does_not_need():
    params = tensors(7)
    assert optim.SGD().init(params) == optim.SGDState(())
    assert optim.SGD(momentum=0.9).init(params).trace != ()
    rmsprop = optim.RMSProp().init(params)
    assert (rmsprop.mean, rmsprop.trace) == ((), ())


@pytest.mark.parametrize(
    "kind, mapped, fixed",
    [
        (optim.Adam, ("lr", "b1", "b2", "eps", "l2", "max_grad_norm"), {}),
        (optim.AdamW, ("lr", "b2", "weight_decay", "max_grad_value"), {"max_grad_norm": 2.0}),
        (optim.RMSProp, ("lr", "rho", "momentum", "eps", "l2", "max_grad_norm"), {"centered": True}),
        (optim.SGD, ("lr", "momentum", "l2", "max_grad_value"), {"nesterov": True}),
    ],
)
def test_a_mapped_member_moves_as_it_moves_alone(kind, mapped, fixed):
    values = {
        "lr": (0.01, 0.1), "b1": (0.9, 0.8), "b2": (0.999, 0.99), "eps": (1e-4, 1e-3), "rho": (0.9, 0.8),
        "momentum": (0.9, 0.5), "l2": (0.1, 0.2), "weight_decay": (0.1, 0.01), "max_grad_norm": (1.0, 2.0),
        "max_grad_value": (0.3, 0.7),
    }  # fmt: skip

    def steps(fields, params):
        optimizer = kind(**fields, **fixed, schedule=Linear(over=10))
        state = optimizer.init(params)
        for step in range(3):
            params, state = optimizer.update(gradients(step), state, params, at(step))
        return params, state

    def together(fields, params):
        return tf.vectorized_map(lambda member: steps(*member), (fields, params), fallback_to_while_loop=False)

    starts = [tensors(8), tensors(9)]
    fields = {name: tf.constant(values[name]) for name in mapped}
    population = tf.function(together, jit_compile=True)(fields, [tf.stack(pair) for pair in zip(*starts)])
    for member, start in enumerate(starts):
        numbers = {name: values[name][member] for name in mapped}
        alone = tf.function(lambda params, numbers=numbers: steps(numbers, params), jit_compile=True)(start)
        same = tf.nest.map_structure(lambda p, a, i=member: np.abs(p[i] - a).max(), population, alone)
        assert max(tf.nest.flatten(same)) < 1e-6


def test_the_hints_refuse_what_makes_no_sense():
    wrong = {"lr": 0.0, "b1": 1.0, "b2": -0.1, "eps": 0.0, "l2": -1.0, "weight_decay": -0.1, "rho": 1.0,
             "momentum": 1.0, "max_grad_norm": 0.0, "max_grad_value": -1.0, "schedule": 3}  # fmt: skip
    for kind in KINDS:
        hints = typing.get_type_hints(kind, include_extras=True)
        for name in wrong.keys() & hints.keys():
            with pytest.raises(pydantic.ValidationError):
                pydantic.TypeAdapter(hints[name]).validate_python(wrong[name])


@pytest.mark.parametrize("kind", KINDS)
def test_the_hints_accept_the_defaults(kind):
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        value = getattr(kind(), field.name)
        assert pydantic.TypeAdapter(hints[field.name]).validate_python(value) == value
    assert kind().schedule == Constant()
