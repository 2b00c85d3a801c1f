"""Networks: what the MLP's settings say is what is built, and its numbers live outside Keras."""

import math
import random

import numpy as np
import pytest
import tensorflow as tf
from conftest import apart, leaves, progress, same_bits

from rlresearch import networks, ops, rng
from rlresearch.errors import ConfigError
from rlresearch.networks import MLP, QNetwork, bind

OBS = tf.constant(np.random.default_rng(0).normal(size=(5, 3)), tf.float32)
FAN_IN = 50


def built(part, shapes=((3,),), outputs=2, seed=0):
    net = bind(part, shapes, outputs)
    return net, net.init(rng.key(seed))


def test_sizes_follow_hidden_and_the_shapes_of_the_environment():
    _, params = built(MLP(hidden=(4, 6)), ((3,), (2,)), 1)
    assert [tuple(w.shape) for w in params.trainable] == [(5, 4), (4,), (4, 6), (6,), (6, 1), (1,)]
    assert params.frozen == []


@pytest.mark.parametrize("activation", ["relu", "tanh", "linear", "softplus"])
def test_output_and_activations_are_those_of_the_formula(activation):
    net, params = built(MLP(hidden=(4,), activation=activation, output_activation="tanh"))
    function = tf.identity if activation == "linear" else getattr(tf.nn, activation)
    w1, b1, w2, b2 = params.trainable
    b1, b2 = b1 + 0.3, b2 - 0.2
    params = params._replace(trainable=[w1, b1, w2, b2])
    expected = tf.tanh(function(OBS @ w1 + b1) @ w2 + b2)
    np.testing.assert_allclose(net.apply(params, OBS), expected, atol=1e-6)
    np.testing.assert_allclose(net.apply_training(params, OBS)[0], expected, atol=1e-6)


def test_two_inputs_are_joined_in_order():
    net, params = built(MLP(hidden=()), ((3,), (2,)), 1)
    action = tf.ones((5, 2)) * [1.0, -2.0]
    expected = tf.concat([OBS, action], axis=1) @ params.trainable[0]
    np.testing.assert_allclose(net.apply(params, OBS, action), expected, atol=1e-6)


def test_observations_of_rank_two_are_flattened():
    net, params = built(MLP(hidden=()), ((2, 3),), 4)
    obs = tf.reshape(tf.range(12.0), (2, 2, 3))
    np.testing.assert_allclose(
        net.apply(params, obs), tf.reshape(obs, (2, 6)) @ params.trainable[0], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    "text, number", [("uniform(3e-3)", 0.003), ("normal(2.)", 2.0), ("orthogonal(.5)", 0.5), ("zeros", None)]
)
def test_numbers_of_initializers_are_read(text, number):
    assert networks.parse_initializer("x", text) == (text.partition("(")[0], number)


# The largest absolute value, and the standard deviation, of a kernel with 50 rows and 80 columns.
LAWS = {
    "zeros": (0.0, 0.0),
    "fan_in_uniform": (1 / math.sqrt(FAN_IN), 1 / math.sqrt(3 * FAN_IN)),
    "uniform(0.003)": (0.003, 0.003 / math.sqrt(3)),
    "normal(0.5)": (math.inf, 0.5),
    "orthogonal": (1.0, 1 / math.sqrt(80)),
    "orthogonal(2)": (2.0, 2 / math.sqrt(80)),
    "glorot_uniform": (math.sqrt(6 / 130), math.sqrt(2 / 130)),
    "glorot_normal": (math.inf, math.sqrt(2 / 130)),
    "he_uniform": (math.sqrt(6 / FAN_IN), math.sqrt(2 / FAN_IN)),
    "he_normal": (math.inf, math.sqrt(2 / FAN_IN)),
    "lecun_uniform": (math.sqrt(3 / FAN_IN), math.sqrt(1 / FAN_IN)),
    "lecun_normal": (math.inf, math.sqrt(1 / FAN_IN)),
}


def test_every_initializer_has_a_law_here():
    assert {name.partition("(")[0] for name in LAWS} == set(networks.INITIALIZERS)


@pytest.mark.parametrize("name", LAWS)
def test_initializers_keep_their_bounds_and_spread(name):
    most, deviation = LAWS[name]
    for field in ("kernel_initializer", "output_initializer"):
        part = MLP(hidden=(80,) if field == "kernel_initializer" else (FAN_IN,), **{field: name})
        _, params = built(part, ((FAN_IN,),), 80)
        kernel, bias = params.trainable[:2] if field == "kernel_initializer" else params.trainable[2:]
        assert np.abs(kernel).max() <= most * (1 + 1e-6)
        assert np.std(kernel) == pytest.approx(deviation, rel=0.06)
        assert abs(np.mean(kernel)) <= 4 * deviation / math.sqrt(kernel.shape[0] * kernel.shape[1])
        assert not np.any(bias)


@pytest.mark.parametrize("text", ["", "xavier", "uniform", "uniform()", "normal", "zeros(1)", "he_normal(2)", 3, None])
@pytest.mark.parametrize("field", ["kernel_initializer", "output_initializer"])
def test_a_wrong_initializer_is_refused_by_name(field, text):
    with pytest.raises(ConfigError, match=field) as caught:
        MLP(**{field: text})
    assert "fan_in_uniform" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["uniform(1e-)", "uniform(-1)", "normal(.)", "orthogonal(1.2.3)", "normal(1e999)"])
def test_an_initializer_whose_number_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="kernel_initializer"):
        MLP(kernel_initializer=text)


def test_init_is_a_function_of_its_key_alone():
    part = MLP(hidden=(4,), layer_norm=True, spectral_norm=True)
    net, first = built(part, seed=1)
    net.apply_training(first, OBS)
    tf.random.set_seed(123)
    assert same_bits(first, net.init(rng.key(1)))
    fresh = networks.Network(part, ((3,),), 2)  # another Keras model of the same part
    assert same_bits(first, fresh.init(rng.key(1)))


def test_different_keys_and_different_layers_draw_differently():
    net, first = built(MLP(hidden=(3, 3)), outputs=3, seed=1)
    second = net.init(rng.key(2))
    kernels = [w.numpy().tobytes() for w in first.trainable[::2] + second.trainable[::2]]
    assert len(set(kernels)) == 6


def test_layer_norm_stands_before_each_hidden_activation():
    net, params = built(MLP(hidden=(6,), activation="linear", layer_norm=True))
    w1, b1, scale, offset, w2, b2 = params.trainable
    x = (OBS @ w1 + b1).numpy()
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(net.apply(params, OBS), (x * scale + offset) @ w2.numpy() + b2, atol=1e-5)


def test_spectral_norm_divides_by_the_largest_singular_value():
    part = MLP(hidden=(), kernel_initializer="normal(3.0)", output_initializer="normal(3.0)", spectral_norm=True)
    net, params = built(part, ((6,),), 4)
    eye = tf.eye(6)
    for _ in range(30):
        before = params
        out, frozen = net.apply_training(params, eye)
        params = params._replace(frozen=frozen)
    assert not same_bits(before.frozen, built(part, ((6,),), 4)[1].frozen)  # the estimate was kept
    effective = net.apply(params, eye).numpy()
    assert np.linalg.svd(params.trainable[0].numpy(), compute_uv=False)[0] > 3.0
    assert np.linalg.svd(effective, compute_uv=False)[0] == pytest.approx(1.0, abs=1e-3)


def test_gradient_flows_through_spectral_norm():
    """The gradient of the divided kernel (Miyato et al. 2018, eq. 12), against central differences."""
    net, params = built(MLP(hidden=(), spectral_norm=True), ((3,),), 2)
    for _ in range(50):
        params = params._replace(frozen=net.apply_training(params, OBS)[1])

    def loss(kernel):
        out = net.apply(params._replace(trainable=[kernel, params.trainable[1]]), OBS)
        return tf.reduce_sum(out * [1.0, 2.0])

    kernel = params.trainable[0]
    gradient = ops.grad(loss, kernel).numpy()
    for place in np.ndindex(3, 2):
        nudge = np.zeros((3, 2), np.float32)
        nudge[place] = 1e-2
        numeric = (loss(kernel + nudge) - loss(kernel - nudge)) / 2e-2
        assert gradient[place] == pytest.approx(float(numeric), abs=5e-2)
    assert abs(np.sum(gradient * kernel)) < 1e-3  # the output does not depend on the kernel's size


def test_statistics_stand_still_outside_training():
    net, params = built(MLP(hidden=(4,), spectral_norm=True))
    model_before = leaves([v.value for v in net.model.variables])
    net.apply(params, OBS)
    _, frozen = net.apply_training(params, OBS)
    assert not same_bits(frozen, params.frozen)
    assert same_bits(model_before, [v.value for v in net.model.variables])  # Keras' own variables never move


@pytest.mark.parametrize(
    "part",
    [
        MLP(hidden=(4,)),
        MLP(hidden=(4,), layer_norm=True),
        MLP(hidden=(4,), spectral_norm=True),
        QNetwork(hidden=(4,), dueling=True, noisy=True),
    ],
)
def test_eager_compiled_and_mapped_agree(part):
    net = bind(part, ((3,),), 2)
    members = [net.init(rng.key(seed)) for seed in range(3)]
    stacked = tf.nest.map_structure(lambda *rows: tf.stack(rows), *members)

    def both(params):
        return net.apply(params, OBS), net.apply_training(params, OBS, noise=net.noise(rng.key(5), progress()))

    eager = [both(params) for params in members]
    graph = tf.function(both, autograph=False)(members[1])
    mapped = tf.function(
        lambda: tf.vectorized_map(both, stacked, fallback_to_while_loop=False), jit_compile=True, autograph=False
    )()
    assert apart(eager[1], graph) < 1e-6
    for index, one in enumerate(eager):
        assert apart(one, tf.nest.map_structure(lambda rows: rows[index], mapped)) < 2e-6  # noqa: B023
    assert apart(eager[0], eager[1]) > 1e-2


def test_bind_gives_the_same_network_for_the_same_question():
    assert bind(MLP(hidden=(4,)), ((3,),), 2) is bind(MLP(hidden=(4,)), ((3,),), 2)
    assert bind(MLP(hidden=(4,)), ((3,),), 2) is not bind(MLP(hidden=(4,)), ((4,),), 2)


class Scaled(tf.keras.layers.Layer):
    """A user's layer; `initializers` says whether its variable can be drawn from the run's seed."""

    def __init__(self, initializers: bool) -> None:
        super().__init__()
        if initializers:
            self.scale_initializer = tf.keras.initializers.RandomUniform(0.5, 1.5)

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")

    def call(self, inputs):
        return inputs * self.scale


class OwnPart:
    def __init__(self, initializers: bool) -> None:
        self.initializers = initializers

    def model(self, input_shapes, outputs):
        inputs = tf.keras.Input(input_shapes[0])
        return tf.keras.Model(inputs, tf.keras.layers.Dense(outputs)(Scaled(self.initializers)(inputs)))


def test_a_users_model_is_drawn_by_its_own_initializers():
    net, params = built(OwnPart(True))
    scale = params.trainable[0].numpy()
    assert ((scale >= 0.5) & (scale <= 1.5)).all() and len(set(scale.tolist())) == 3
    np.testing.assert_allclose(net.apply(params, OBS), (OBS * scale) @ params.trainable[1], atol=1e-6)


def test_a_users_model_without_initializers_is_drawn_from_the_runs_key_too():
    part = OwnPart(False)
    net, params = built(part, seed=3)
    random.seed(1)
    assert same_bits(params, networks.Network(part, ((3,),), 2).init(rng.key(3)))
    assert apart(params.trainable[0], net.init(rng.key(4)).trainable[0]) > 1e-3


# Values of discrete actions: dueling and noisy.


def numbers(params, draw=np.random.default_rng(4)):
    """The same structure with other numbers, biases too."""
    return params._replace(trainable=[w + tf.constant(draw.normal(size=w.shape), tf.float32) for w in params.trainable])


def test_dueling_values_are_the_value_and_centred_advantages():
    net, params = built(QNetwork(hidden=(6, 5), dueling=True), outputs=3)
    params = numbers(params)
    w, b, *streams = params.trainable
    kernels = {tuple(kernel.shape) for kernel in streams[::2]}
    assert kernels == {(6, 5), (5, 1), (5, 3)}
    shared = tf.nn.relu(OBS @ w + b)
    hidden, heads = [], {}
    for kernel, bias in zip(streams[::2], streams[1::2]):
        if kernel.shape[0] == 6:
            hidden.append(tf.nn.relu(shared @ kernel + bias))
        else:
            heads[kernel.shape[1]] = (kernel, bias)
    expected = []
    for x in (hidden, hidden[::-1]):  # Keras has its own order of the two streams
        value, advantage = (each @ heads[size][0] + heads[size][1] for each, size in zip(x, (1, 3)))
        expected.append(value + advantage - tf.reduce_mean(advantage, axis=1, keepdims=True))
    out = net.apply(params, OBS)
    assert sorted(apart(out, each) < 1e-5 for each in expected) == [False, True]


def test_dueling_distributions_are_centred_over_actions():
    """A change of all advantages alike changes nothing; of the value, every action's atoms alike."""
    net, params = built(QNetwork(hidden=(6,), dueling=True), outputs=(3, 4))
    out = net.apply(params, OBS)
    assert out.shape == (5, 3, 4)
    biases = {w.shape[0]: i for i, w in enumerate(params.trainable) if w.shape.rank == 1}
    moved = lambda i, by: net.apply(  # noqa: E731
        params._replace(trainable=[w + by if j == i else w for j, w in enumerate(params.trainable)]), OBS
    )
    np.testing.assert_allclose(moved(biases[12], tf.tile([1.0, 2.0, 3.0, 4.0], [3])), out, atol=1e-5)
    np.testing.assert_allclose(moved(biases[4], [1.0, 2.0, 3.0, 4.0]), out + [1.0, 2.0, 3.0, 4.0], atol=1e-5)


def test_outputs_of_several_axes_are_the_same_numbers():
    for part in (MLP(hidden=(4,)), QNetwork(hidden=(4,))):
        (flat, params), (shaped, _) = built(part, outputs=6), built(part, outputs=(2, 3))
        np.testing.assert_array_equal(tf.reshape(flat.apply(params, OBS), (5, 2, 3)), shaped.apply(params, OBS))


def test_a_noisy_layer_is_the_formula_of_its_paper():
    net, params = built(QNetwork(hidden=(), noisy=True, sigma0=0.5))
    kernel, bias, kernel_sigma, bias_sigma = params.trainable
    np.testing.assert_allclose(kernel_sigma, np.full((3, 2), 0.5 / math.sqrt(3)), rtol=1e-6)
    np.testing.assert_allclose(bias_sigma, np.full(2, 0.5 / math.sqrt(3)), rtol=1e-6)
    params = numbers(params)
    kernel, bias, kernel_sigma, bias_sigma = (w.numpy() for w in params.trainable)
    e = rng.normal(rng.key(3), (5,)).numpy()
    e_in, e_out = np.split(np.sign(e) * np.sqrt(np.abs(e)), [3])
    expected = OBS @ (kernel + kernel_sigma * np.outer(e_in, e_out)) + bias + bias_sigma * e_out
    np.testing.assert_allclose(net.apply(params, OBS, noise=net.noise(rng.key(3), progress())), expected, atol=1e-5)
    np.testing.assert_allclose(net.apply(params, OBS), OBS @ kernel + bias, atol=1e-5)  # without, the mean


def test_noise_is_fresh_with_each_key_differs_between_layers_and_is_never_kept():
    net, params = built(QNetwork(hidden=(3, 3, 3), noisy=True, dueling=True), outputs=3)
    assert params.frozen == []
    one, again, two = (net.noise(rng.key(seed), progress()) for seed in (1, 1, 2))
    assert same_bits(one, again) and not set(one.numpy()) & set(two.numpy())
    assert len(set(one.numpy())) == len(one) == 5 * (3 + 3) + (3 + 1)
    out, frozen = net.apply_training(params, OBS, noise=one)
    assert apart(out, net.apply(params, OBS, noise=two)) > 1e-2
    assert frozen == []


def test_networks_without_noisy_layers_draw_none():
    net, params = built(MLP(hidden=(4,), spectral_norm=True))
    assert net.noise(rng.key(1), progress()) is None
    assert len(params.frozen) == 2


def test_dueling_without_a_hidden_layer_is_refused():
    with pytest.raises(ConfigError, match="hidden=.*: dueling needs at least one layer"):
        QNetwork(hidden=(), dueling=True)
