"""Distributions against scipy's, against numerical integration, and against what they draw."""

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import tensorflow as tf

from rlresearch import ops, rng
from rlresearch.distributions import Categorical, DiagonalGaussian, SquashedGaussian, log_slope_of_tanh

KEY = rng.key(11)
DRAW = np.random.default_rng(0)
MEAN, LOG_STD = DRAW.normal(size=(6, 3)), DRAW.uniform(-3.0, 1.0, (6, 3))
LOGITS = DRAW.normal(size=(5, 4)) * 3.0


def wide(*arrays):
    """float64 tensors."""
    return [tf.constant(each, tf.float64) for each in arrays]


def test_gaussian_density_and_entropy_are_scipys():
    ours, value = DiagonalGaussian(*wide(MEAN, LOG_STD)), DRAW.normal(size=(6, 3))
    theirs = scipy.stats.norm(MEAN, np.exp(LOG_STD))
    np.testing.assert_allclose(ours.log_prob(tf.constant(value)), theirs.logpdf(value).sum(1), rtol=1e-12)
    np.testing.assert_allclose(ours.entropy(), theirs.entropy().sum(1), rtol=1e-12)
    np.testing.assert_array_equal(ours.mode(), MEAN)


def test_a_gaussians_deviation_may_be_shared_by_all_rows():
    shared = DiagonalGaussian(*wide(MEAN, LOG_STD[0]))
    spread = DiagonalGaussian(*wide(MEAN, np.tile(LOG_STD[0], (6, 1))))
    np.testing.assert_allclose(shared.entropy(), spread.entropy(), rtol=1e-12)
    np.testing.assert_allclose(shared.log_prob(wide(MEAN + 0.3)[0]), spread.log_prob(wide(MEAN + 0.3)[0]), rtol=1e-12)
    assert shared.sample(KEY).shape == (6, 3)


@pytest.mark.parametrize("make", [DiagonalGaussian, SquashedGaussian])
def test_gaussian_draws_follow_their_distribution(make):
    drawn = make(tf.fill((20_000, 1), 0.3), tf.fill((20_000, 1), -0.5)).sample(KEY)
    before = drawn if make is DiagonalGaussian else tf.atanh(drawn[0])
    assert scipy.stats.kstest(before[:, 0], scipy.stats.norm(0.3, np.exp(-0.5)).cdf).pvalue > 1e-3


@pytest.mark.parametrize("mean, log_std", [(0.0, 0.0), (0.7, -1.0), (-2.0, 0.5), (0.2, -4.0)])
def test_squashed_density_integrates_to_the_probability_of_an_interval(mean, log_std):
    made = SquashedGaussian(*wide([[mean]], [[log_std]]))
    density = lambda a: np.exp(made.log_prob(wide([[a]])[0]).numpy()[0])  # noqa: E731
    low, high = np.tanh(mean - 2 * np.exp(log_std)), np.tanh(mean + 1 * np.exp(log_std))
    inside = scipy.stats.norm.cdf(1) - scipy.stats.norm.cdf(-2)
    assert scipy.integrate.quad(density, low, high, epsabs=1e-10)[0] == pytest.approx(inside, abs=1e-8)


def test_squashed_density_is_that_of_the_change_of_variable():
    """log N(u) - sum log(1 - tanh(u)^2), in float64, where the plain formula is exact enough."""
    before = DRAW.normal(size=(6, 3)) * 2.0
    ours = SquashedGaussian(*wide(MEAN, LOG_STD)).log_prob(wide(np.tanh(before))[0])
    plain = scipy.stats.norm(MEAN, np.exp(LOG_STD)).logpdf(before) - np.log1p(-(np.tanh(before) ** 2))
    np.testing.assert_allclose(ours, plain.sum(1), rtol=1e-7)


def test_a_squashed_draw_comes_with_its_own_log_density():
    made = SquashedGaussian(*wide(MEAN, LOG_STD - 1.0))
    action, log_prob = made.sample(KEY)
    np.testing.assert_allclose(log_prob, made.log_prob(action), rtol=1e-6)
    np.testing.assert_allclose(made.mode(), np.tanh(MEAN), rtol=1e-12)


def test_the_squashed_density_stays_exact_and_has_a_slope_where_tanh_is_1():
    x = tf.constant([[-50.0], [-9.5], [0.0], [9.5], [50.0]])
    exact = 2.0 * (np.log(2.0) - np.abs(x.numpy()[:, 0].astype(np.float64)))  # log(1 - tanh^2), within exp(-2 |x|)
    exact[2] = 0.0
    np.testing.assert_allclose(log_slope_of_tanh(x), exact, atol=1e-6, rtol=1e-6)
    np.testing.assert_allclose(ops.batch_grad(log_slope_of_tanh, x)[:, 0], [2.0, 2.0, 0.0, -2.0, -2.0], atol=1e-6)
    action, log_prob = SquashedGaussian(tf.fill((4, 1), 30.0), tf.fill((4, 1), 0.0)).sample(KEY)
    assert np.all(action.numpy() == 1.0) and np.all(np.isfinite(log_prob))


@pytest.mark.parametrize("make", [DiagonalGaussian, SquashedGaussian])
def test_gradients_pass_through_gaussian_draws(make):
    """d action / d mean, and for the deviation the drawn number times it: by finite differences."""

    def total(parameters):
        drawn = make(parameters[:, :1], parameters[:, 1:]).sample(KEY)
        return tf.reduce_sum(drawn if make is DiagonalGaussian else drawn[0] + 0.3 * drawn[1][:, None])

    at = DRAW.normal(size=(3, 2)) * 0.5
    slopes = ops.grad(total, wide(at)[0]).numpy()
    for place in np.ndindex(3, 2):
        step = np.zeros((3, 2))
        step[place] = 1e-6
        numeric = (total(wide(at + step)[0]) - total(wide(at - step)[0])).numpy() / 2e-6
        assert slopes[place] == pytest.approx(numeric, rel=1e-6, abs=1e-8)


def test_categorical_log_probs_and_entropy_are_scipys():
    ours = Categorical(wide(LOGITS)[0])
    probs = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    np.testing.assert_allclose(ours.probs(), probs, rtol=1e-12)
    np.testing.assert_allclose(ours.log_probs(), np.log(probs), rtol=1e-10)
    np.testing.assert_allclose(ours.entropy(), scipy.stats.entropy(probs, axis=1), rtol=1e-12)
    action = np.array([0, 3, 1, 2, 2])
    np.testing.assert_allclose(ours.log_prob(tf.constant(action)), np.log(probs[range(5), action]), rtol=1e-10)
    assert ours.mode().numpy().tolist() == LOGITS.argmax(1).tolist()


def test_categorical_entropy_is_finite_where_an_action_is_impossible():
    made = Categorical(tf.constant([[0.0, 200.0, -200.0]]))
    assert made.entropy().numpy().tolist() == [0.0]
    assert np.all(np.isfinite(ops.grad(lambda logits: Categorical(logits).entropy()[0], made.logits)))


def test_categorical_draws_have_the_probabilities_of_their_logits():
    rows = 40_000
    drawn = Categorical(tf.tile([[0.0, 2.0, -1.0, -6.0]], (rows, 1))).sample(KEY)
    assert drawn.dtype == tf.int32 and drawn.shape == (rows,)
    counts = np.bincount(drawn, minlength=4)
    expected = np.exp([0.0, 2.0, -1.0, -6.0]) / np.exp([0.0, 2.0, -1.0, -6.0]).sum() * rows
    assert scipy.stats.chisquare(counts, expected).pvalue > 1e-3
    assert not np.array_equal(drawn, Categorical(tf.tile([[0.0, 2.0, -1.0, -6.0]], (rows, 1))).sample(rng.key(12)))


def test_gumbel_numbers_follow_their_distribution_and_are_finite():
    drawn = rng.gumbel(KEY, (50_000,)).numpy()
    assert scipy.stats.kstest(drawn, scipy.stats.gumbel_r.cdf).pvalue > 1e-3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rng, "bits", lambda key, shape: tf.constant([0, 2**32 - 1], tf.uint32))
        assert rng.gumbel(KEY, (2,)).numpy() == pytest.approx([22.87, -2.81], abs=0.01)


def test_all_of_it_is_mapped_and_compiled():
    """A member draws what it would draw alone."""

    def drawn(mean, key):
        keys = tf.unstack(rng.split(key, 3))
        gaussian, squashed = DiagonalGaussian(mean, mean), SquashedGaussian(mean, mean)
        categorical = Categorical(mean)
        action, log_prob = squashed.sample(keys[0])
        choice, vector = categorical.sample(keys[1]), gaussian.sample(keys[2])
        density = gaussian.log_prob(vector) + gaussian.entropy() + categorical.entropy() + categorical.log_prob(choice)
        slopes = ops.grad(lambda m: tf.reduce_sum(SquashedGaussian(m, m).sample(keys[0])[1]), mean)
        return action, log_prob, choice, vector, density, slopes

    means = tf.constant(DRAW.normal(size=(2, 3, 4)), tf.float32)
    keys = rng.split(KEY, 2)
    mapped = lambda: tf.vectorized_map(lambda row: drawn(*row), (means, keys), fallback_to_while_loop=False)  # noqa: E731
    together = tf.function(mapped, jit_compile=True, autograph=False)()
    for member in range(2):
        for ours, alone in zip(together, drawn(means[member], keys[member])):
            np.testing.assert_allclose(ours[member], alone, atol=2e-5, rtol=2e-5)
