"""Any Keras layer: a network of it follows from the run's key, alone and mapped over members."""

import random
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import tensorflow as tf
from conftest import apart, same_bits

from rlresearch import networks, ops, rng
from rlresearch.errors import ConfigError
from rlresearch.networks import bind
from rlresearch.runners import vectorization

layers = tf.keras.layers
X = tf.constant(np.random.default_rng(0).normal(size=(5, 12)), tf.float32)
SEQUENCE, IMAGE, VOLUME = (4, 3), (2, 3, 2), (2, 2, 3, 1)


@dataclass(frozen=True)
class Chain:
    """Inputs [B, 12] in another shape, the layers one after the other, and a dense layer of the outputs."""

    shape: tuple[int, ...]
    makers: tuple

    def model(self, input_shapes, outputs):
        inputs = tf.keras.Input(input_shapes[0])
        x = layers.Reshape(self.shape)(inputs)
        for make in self.makers:
            x = make()(x)
        return tf.keras.Model(inputs, layers.Dense(outputs)(layers.Flatten()(x)))


@dataclass(frozen=True)
class Attends:
    """Attention of four places to each other."""

    make: object

    def model(self, input_shapes, outputs):
        inputs = tf.keras.Input(input_shapes[0])
        x = layers.Reshape(SEQUENCE)(inputs)
        layer = self.make()
        x = layer(x, x) if isinstance(layer, layers.MultiHeadAttention) else layer([x, x])
        return tf.keras.Model(inputs, layers.Dense(outputs)(layers.Flatten()(x)))


def chain(shape, *makers):
    return Chain(shape, makers)


class KeysOfNumbers(layers.Layer):
    """Whole numbers in [0, 20) from real ones."""

    def call(self, x):
        return tf.cast(tf.abs(x) * 3, tf.int32) % 20


KINDS = {
    "dense": chain((12,), partial(layers.Dense, 5, "relu")),
    "einsum_dense": chain(SEQUENCE, partial(layers.EinsumDense, "abc,cd->abd", (4, 5), bias_axes="d")),
    "embedding": chain((12,), KeysOfNumbers, partial(layers.Embedding, 20, 3)),
    "convolution_1d": chain(SEQUENCE, partial(layers.Conv1D, 4, 2, padding="causal", dilation_rate=2)),
    "convolution_2d": chain(IMAGE, partial(layers.Conv2D, 4, 2, padding="same")),
    "convolution_2d_strided": chain(IMAGE, partial(layers.Conv2D, 4, 2, strides=2, padding="same")),
    "convolution_2d_grouped": chain(IMAGE, partial(layers.Conv2D, 4, 2, groups=2, padding="same")),
    "convolution_2d_dilated": chain(IMAGE, partial(layers.Conv2D, 4, 2, dilation_rate=2, padding="same")),
    "convolution_3d": chain(VOLUME, partial(layers.Conv3D, 3, 2)),
    "transposed_1d": chain(SEQUENCE, partial(layers.Conv1DTranspose, 3, 2, strides=2)),
    "transposed_2d": chain(IMAGE, partial(layers.Conv2DTranspose, 3, 2, strides=2)),
    "transposed_3d": chain(VOLUME, partial(layers.Conv3DTranspose, 3, 2)),
    "depthwise_1d": chain(SEQUENCE, partial(layers.DepthwiseConv1D, 2)),
    "depthwise_2d": chain(IMAGE, partial(layers.DepthwiseConv2D, 2)),
    "separable_1d": chain(SEQUENCE, partial(layers.SeparableConv1D, 4, 2)),
    "separable_2d": chain(IMAGE, partial(layers.SeparableConv2D, 4, 2)),
    "max_pooling": chain(IMAGE, partial(layers.Conv2D, 4, 1), partial(layers.MaxPooling2D, 2)),
    "average_pooling": chain(IMAGE, partial(layers.Conv2D, 4, 1), partial(layers.AveragePooling2D, 2)),
    "global_pooling": chain(IMAGE, layers.GlobalAveragePooling2D),
    "padding_upsampling": chain(IMAGE, partial(layers.ZeroPadding2D, 1), partial(layers.UpSampling2D, 2)),
    "lstm": chain(SEQUENCE, partial(layers.LSTM, 4)),
    "gru": chain(SEQUENCE, partial(layers.GRU, 4)),
    "simple_rnn": chain(SEQUENCE, partial(layers.SimpleRNN, 4)),
    "bidirectional": chain(SEQUENCE, lambda: layers.Bidirectional(layers.LSTM(3))),
    "lstm_dropout": chain(SEQUENCE, partial(layers.LSTM, 4, dropout=0.2, recurrent_dropout=0.2)),
    "time_distributed": chain(SEQUENCE, lambda: layers.TimeDistributed(layers.Dense(3))),
    "multi_head_attention": Attends(partial(layers.MultiHeadAttention, 2, 3, dropout=0.2)),
    "attention": Attends(partial(layers.Attention, use_scale=True)),
    "additive_attention": Attends(layers.AdditiveAttention),
    "batch_normalization": chain((12,), partial(layers.Dense, 5), layers.BatchNormalization),
    "layer_normalization": chain((12,), layers.LayerNormalization),
    "group_normalization": chain(IMAGE, partial(layers.GroupNormalization, 2)),
    "rms_normalization": chain((12,), layers.RMSNormalization),
    "unit_normalization": chain((12,), layers.UnitNormalization),
    "dropout": chain((12,), partial(layers.Dropout, 0.3)),
    "spatial_dropout": chain(SEQUENCE, partial(layers.SpatialDropout1D, 0.3)),
    "gaussian_dropout": chain((12,), partial(layers.GaussianDropout, 0.3)),
    "alpha_dropout": chain((12,), partial(layers.AlphaDropout, 0.3)),
    "gaussian_noise": chain((12,), partial(layers.GaussianNoise, 0.3)),
    "prelu": chain((12,), layers.PReLU),
    "rescaling": chain((12,), partial(layers.Rescaling, 0.1)),
}
DRAW = ("dropout", "spatial_dropout", "gaussian_dropout", "alpha_dropout", "gaussian_noise", "lstm_dropout")
# One for each way of being mapped; the others are slow tests.
BY_DEFAULT = ("convolution_2d_strided", "gru", "dropout")


def trained(net, params, x):
    """(output, `frozen` after it, gradients of its squared sum) of a training call."""

    def loss(trainable):
        y, frozen = net.apply_training(params._replace(trainable=trainable), x)
        return tf.reduce_sum(tf.square(y)), (y, frozen)

    (_, (y, frozen)), grads = ops.value_and_grad(loss, params.trainable)
    return y, frozen, grads


def networks_of(kind):
    return bind(KINDS[kind], ((12,),), 2)


@pytest.mark.parametrize("kind", KINDS)
def test_its_initial_values_and_random_states_follow_from_the_key(kind):
    net = networks_of(kind)
    params = net.init(rng.key(3))
    random.seed(7)
    state = random.getstate()
    assert same_bits(params, networks.Network(KINDS[kind], ((12,),), 2).init(rng.key(3)))
    assert random.getstate() == state  # what others draw goes on as it was
    assert not same_bits(params, net.init(rng.key(4)))
    np.testing.assert_array_equal(net.apply(params, X), net.apply(params, X))
    assert any(np.any(net.apply(params, X).numpy() != net.apply(net.init(rng.key(4)), X)) for _ in "1")


@pytest.mark.parametrize("kind", DRAW)
def test_a_layer_that_draws_gives_the_same_numbers_for_the_same_state_and_others_for_the_next(kind):
    net = networks_of(kind)
    params = net.init(rng.key(3))
    (first, after, _), (again, *_) = trained(net, params, X), trained(net, params, X)
    assert same_bits(first, again)
    second, *_ = trained(net, params._replace(frozen=after), X)
    assert apart(first, second) > 1e-3
    other = net.init(rng.key(4))
    assert not same_bits(other.frozen, params.frozen)


@pytest.mark.parametrize(
    "kind", [each if each in BY_DEFAULT else pytest.param(each, marks=pytest.mark.slow) for each in KINDS]
)
def test_members_of_a_mapped_program_are_their_own_networks(kind):
    """Output, state and gradients of each member, with weights and draws of its own, are those it has alone."""
    vectorization.register()
    net = networks_of(kind)
    members = [net.init(rng.key(seed)) for seed in range(3)]
    x = tf.stack([X, X * 0.5, X + 1.0])
    stacked = tf.nest.map_structure(lambda *rows: tf.stack(rows), *members)
    run = tf.function(partial(trained, net), jit_compile=True, autograph=False)
    mapped = tf.function(
        lambda: tf.vectorized_map(lambda row: trained(net, *row), (stacked, x), fallback_to_while_loop=False),
        jit_compile=True,
        autograph=False,
    )()
    for index, params in enumerate(members):
        alone = run(params, x[index])
        for one, every in zip(tf.nest.flatten(alone), tf.nest.flatten(mapped), strict=True):
            np.testing.assert_allclose(every[index], one, rtol=1e-4, atol=1e-4)
    assert apart(mapped[0][0], mapped[0][1]) > 1e-3


def test_a_target_copies_random_states_and_averages_weights():
    net = networks_of("dropout")
    old, new = net.init(rng.key(0)), net.init(rng.key(1))
    soft = ops.polyak(old, new, 0.25)
    assert same_bits(soft.frozen, new.frozen)
    np.testing.assert_allclose(soft.trainable[0], 0.75 * old.trainable[0] + 0.25 * new.trainable[0], atol=1e-6)
    assert same_bits(ops.polyak(old, new, tf.constant(0.0)), old)
    assert same_bits(ops.polyak(old, new, tf.constant(1.0)), new)


class DrawsElsewhere(layers.Layer):
    def call(self, x):
        return x + tf.random.normal(tf.shape(x))


class DrawsFromKeras(layers.Layer):
    def call(self, x):
        return x + tf.keras.random.normal((1, 12))


class Counts(layers.Layer):
    def __init__(self):
        super().__init__()
        self.calls = tf.Variable(0.0, trainable=False)

    def call(self, x):
        self.calls.assign_add(1.0)
        return x * self.calls


@pytest.mark.parametrize("layer", [DrawsElsewhere, DrawsFromKeras, Counts])
def test_a_layer_whose_numbers_come_from_elsewhere_is_refused(layer):
    with pytest.raises(ConfigError, match="would not follow from its seed"):
        bind(chain((12,), layer), ((12,),), 2)


class DrawsFromItsOwnState(layers.Layer):
    def __init__(self):
        super().__init__()
        self.seed_generator = tf.keras.random.SeedGenerator(5)

    def call(self, x, training=False):
        return x + tf.keras.random.normal((1, 12), seed=self.seed_generator) if training else x


def test_a_users_layer_with_a_seed_generator_draws_from_the_runs_key():
    net = bind(chain((12,), DrawsFromItsOwnState), ((12,),), 2)
    states = [net.init(rng.key(seed)) for seed in (0, 0, 1)]
    outputs = [trained(net, states[0]._replace(frozen=each.frozen), X)[0] for each in states]
    assert same_bits(outputs[0], outputs[1]) and apart(outputs[0], outputs[2]) > 1e-3
