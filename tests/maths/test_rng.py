"""Random numbers: the published function, the same words however they are run, and the laws they follow."""

import itertools

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from rlresearch import rng

# Random123's kat_vectors, threefry2x32, 20 rounds: key, counter, block.
PUBLISHED = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]
MEMBERS = 3
MAXIMA = (2, 1000, 2**31 - 1)


def many(draw, keys):
    """What `draw` makes of each of the keys, in one program."""
    return tf.function(lambda: tf.vectorized_map(draw, keys, fallback_to_while_loop=False))()


def words(*values):
    return tf.constant(values, tf.uint32)


def every_draw(key, maximum):
    """One of each, at sizes around the pairs of a block: none, one, odd, even, many."""
    return {
        "split": rng.split(key, 3),
        "fold_in": rng.fold_in(key, maximum),
        "fold_in_int64": rng.fold_in(key, tf.cast(maximum, tf.int64) * 2**20),
        "bits_scalar": rng.bits(key, ()),
        "bits_none": rng.bits(key, (0, 3)),
        "bits_odd": rng.bits(key, (3, 3)),
        "uniform": rng.uniform(key, (17,)),
        "uniform_scaled": rng.uniform(key, (17,), low=-2.0, high=tf.cast(maximum, tf.float32)),
        "normal_scalar": rng.normal(key, ()),
        "normal_odd": rng.normal(key, (3, 7)),
        "randint": rng.randint(key, (5,), maximum),
        "permutation_sorted": rng.permutation(key, 9),
        "permutation": rng.permutation(key, 72),
    }


@pytest.fixture(scope="module")
def ways():
    """Every draw of each member: eagerly, compiled alone, and mapped inside a compiled program."""
    keys, maxima = rng.split(rng.key(7), MEMBERS), tf.constant(MAXIMA)
    alone = tf.function(every_draw, jit_compile=True)

    @tf.function(jit_compile=True)
    def together(keys, maxima):
        return tf.vectorized_map(lambda pair: every_draw(*pair), (keys, maxima), fallback_to_while_loop=False)

    def stacked(draw):
        members = [draw(keys[i], maxima[i]) for i in range(MEMBERS)]
        return {name: np.stack([member[name] for member in members]) for name in members[0]}

    mapped = {name: value.numpy() for name, value in together(keys, maxima).items()}
    return {"eager": stacked(every_draw), "alone": stacked(alone), "mapped": mapped}


@pytest.mark.parametrize("key, counter, block", PUBLISHED)
def test_threefry_gives_the_published_vectors(key, counter, block):
    np.testing.assert_array_equal(rng.threefry2x32(words(*key), words(*counter)), block)


def test_threefry_takes_any_number_of_counters():
    key, counters = rng.key(5), tf.reshape(tf.cast(tf.range(12), tf.uint32), (2, 3, 2))
    blocks = rng.threefry2x32(key, counters)
    assert blocks.shape == (2, 3, 2)
    np.testing.assert_array_equal(blocks[1, 2], rng.threefry2x32(key, counters[1, 2]))


def test_key_is_the_upper_and_the_lower_word_of_the_seed():
    np.testing.assert_array_equal(rng.key(7), [0, 7])
    np.testing.assert_array_equal(rng.key(0x0123456789ABCDEF), [0x01234567, 0x89ABCDEF])
    np.testing.assert_array_equal(rng.key(2**64 - 1), [2**32 - 1, 2**32 - 1])


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_that_does_not_fit_is_refused(seed):
    with pytest.raises(ValueError, match=str(seed)):
        rng.key(seed)


def test_integers_are_the_same_bits_eager_compiled_and_mapped(ways):
    integers = [name for name, value in ways["eager"].items() if value.dtype != np.float32]
    assert len(integers) == 9
    for name in [*integers, "uniform"]:
        np.testing.assert_array_equal(ways["alone"][name], ways["eager"][name], name)
        np.testing.assert_array_equal(ways["mapped"][name], ways["eager"][name], name)


def test_a_mapped_member_draws_exactly_what_it_draws_alone(ways):
    for name, value in ways["alone"].items():
        np.testing.assert_array_equal(ways["mapped"][name], value, name)


def test_eager_and_compiled_floats_differ_by_rounding_alone(ways):
    for name in ("uniform_scaled", "normal_scalar", "normal_odd"):
        np.testing.assert_allclose(ways["alone"][name], ways["eager"][name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2,), (5,), (2, 3), (3, 1, 3)])
def test_draws_have_the_asked_shape_and_dtype(shape):
    key = rng.key(1)
    draws = [rng.bits(key, shape), rng.uniform(key, shape), rng.normal(key, shape), rng.randint(key, shape, 9)]
    assert [draw.shape for draw in draws] == [shape] * 4
    assert [draw.dtype for draw in draws] == [tf.uint32, tf.float32, tf.float32, tf.int32]


def test_both_words_of_a_block_are_used():
    calls = rng.bits(rng.key(3), (10,)).numpy()
    key = rng.key(3)
    counters = tf.stack([words(*range(5)), tf.repeat(words(rng.DRAW), 5)], axis=1)
    np.testing.assert_array_equal(calls, np.concatenate(rng.threefry2x32(key, counters).numpy().T))


def test_every_bit_is_one_half_of_the_time():
    drawn = np.unpackbits(rng.bits(rng.key(2), (20_000,)).numpy().view(np.uint8)).reshape(20_000, 32)
    assert np.abs(drawn.mean(0) - 0.5).max() < 4.5 * 0.5 / np.sqrt(20_000)


def test_uniform_is_uniform():
    drawn = rng.uniform(rng.key(4), (50_001,)).numpy()
    assert scipy.stats.kstest(drawn, "uniform").pvalue > 1e-3
    assert drawn.mean() == pytest.approx(0.5, abs=0.005) and drawn.var() == pytest.approx(1 / 12, abs=0.002)
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.02


def test_uniform_never_reaches_one():
    largest = rng.unit_interval(words(0xFFFFFFFF)).numpy()
    np.testing.assert_array_equal(largest, np.float32(1 - 2**-24))
    np.testing.assert_array_equal(rng.unit_interval(words(0)), 0.0)


def test_uniform_covers_its_bounds():
    drawn = rng.uniform(rng.key(5), (20_000,), low=-3.0, high=tf.constant(-1.0)).numpy()
    assert scipy.stats.kstest(drawn, "uniform", args=(-3, 2)).pvalue > 1e-3
    assert drawn.min() >= -3 and drawn.max() <= -1


def test_normal_is_normal_and_its_pairs_are_independent():
    drawn = rng.normal(rng.key(6), (50_000,)).numpy()
    assert scipy.stats.kstest(drawn, "norm").pvalue > 1e-3
    assert drawn.mean() == pytest.approx(0, abs=0.015) and drawn.std() == pytest.approx(1, abs=0.01)
    assert scipy.stats.kurtosis(drawn) == pytest.approx(0, abs=0.08)
    first, second = drawn[:25_000], drawn[25_000:]
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02 and abs(np.corrcoef(first**2, second**2)[0, 1]) < 0.02


@pytest.mark.parametrize("word, radius", [(0, 6.7637), (0xFFFFFFFF, 0.0)])
def test_normal_is_finite_for_every_word(monkeypatch, word, radius):
    monkeypatch.setattr(rng, "blocks", lambda *_: (words(word), words(0)))
    np.testing.assert_allclose(rng.normal(rng.key(0), (2,)), [radius, 0.0], atol=1e-3)


@pytest.mark.parametrize("maximum", [1, 2, 7, 1000])
def test_randint_is_uniform(maximum):
    counts = np.bincount(rng.randint(rng.key(8), (50_000,), maximum), minlength=maximum)
    assert len(counts) == maximum
    assert maximum == 1 or scipy.stats.chisquare(counts).pvalue > 1e-3


def test_randint_is_not_biased_where_32_bits_would_be():
    maximum = 3 * 2**29  # of 2**32 words, every third number would get two and the others three
    drawn = rng.randint(rng.key(9), (30_000,), tf.constant(maximum)).numpy()
    assert scipy.stats.chisquare(np.bincount(drawn % 3)).pvalue > 1e-3
    assert scipy.stats.kstest(drawn / maximum, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("maximum", [2**31, tf.constant(2**31, tf.int64)])
def test_randint_reaches_all_of_int32(maximum):
    drawn = rng.randint(rng.key(10), (20_000,), maximum).numpy()
    assert drawn.min() >= 0 and scipy.stats.kstest(drawn / 2**31, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("n", [0, 1, 2, 10, 64, 72, 512, 1001, 2 * 509, 4096])
def test_permutation_holds_every_number_once(n):
    drawn = rng.permutation(rng.key(11), n)
    assert drawn.dtype == tf.int32
    np.testing.assert_array_equal(np.sort(drawn), np.arange(n))


def test_permutations_of_a_few_are_equally_likely():
    drawn = many(lambda key: rng.permutation(key, 4), rng.split(rng.key(12), 12_000)).numpy()
    codes = drawn @ 4 ** np.arange(4)
    counts = [np.sum(codes == np.array(order) @ 4 ** np.arange(4)) for order in itertools.permutations(range(4))]
    assert sum(counts) == 12_000 and scipy.stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("n", [64, 96, 512])
def test_no_permutation_of_many_is_likelier_than_another_as_far_as_can_be_seen(n):
    drawn = many(lambda key: rng.permutation(key, n), rng.split(rng.key(14), 20_000)).numpy()
    places = [drawn[:, i] for i in (0, 1, n - 1)]
    distances = [(drawn[:, i] - drawn[:, 0]) % n - 1 for i in (1, 8, n // 2)]
    for uniform, values in [*((each, n) for each in places), *((each, n - 1) for each in distances)]:
        assert scipy.stats.chisquare(np.bincount(uniform, minlength=values)).pvalue > 1e-4
    fixed = np.bincount(np.minimum((drawn == np.arange(n)).sum(axis=1), 6), minlength=7)
    expected = scipy.stats.poisson(1).pmf(np.arange(7))
    assert scipy.stats.chisquare(fixed, len(drawn) * np.append(expected[:6], 1 - expected[:6].sum())).pvalue > 1e-4
    ascents = (drawn[:, 1:] > drawn[:, :-1]).sum(axis=1)
    deviation = np.sqrt((n + 1) / 12)
    assert abs(ascents.mean() - (n - 1) / 2) < 4 * deviation / np.sqrt(len(drawn))
    assert abs(ascents.std() / deviation - 1) < 0.02


def test_a_key_always_draws_the_same():
    np.testing.assert_array_equal(rng.normal(rng.key(13), (8,)), rng.normal(rng.key(13), (8,)))


def test_children_draw_independently_of_each_other_and_of_their_parent():
    parent = rng.key(14)
    children = [*tf.unstack(rng.split(parent, 3)), rng.fold_in(parent, 0), rng.fold_in(parent, 1), parent]
    drawn = np.stack([rng.uniform(child, (20_000,)).numpy() for child in children])
    assert np.abs(np.corrcoef(drawn) - np.eye(6)).max() < 4 / np.sqrt(20_000)


def test_neighbouring_seeds_draw_independently():
    drawn = np.stack([rng.uniform(rng.key(seed), (20_000,)).numpy() for seed in range(6)])
    assert np.abs(np.corrcoef(drawn) - np.eye(6)).max() < 4 / np.sqrt(20_000)


def test_first_draws_over_many_children_are_uniform():
    drawn = many(lambda key: rng.uniform(key, ()), rng.split(rng.key(15), 20_000))
    assert scipy.stats.kstest(drawn, "uniform").pvalue > 1e-3


def test_split_fold_in_and_draws_share_no_block():
    key = rng.key(16)
    folded = tf.stack([rng.fold_in(key, i) for i in range(-4, 4)])
    drawn = [rng.split(key, 8), folded, rng.bits(key, (16,)), rng.threefry2x32(key, tf.zeros((1, 2), tf.uint32) + 99)]
    everything = np.concatenate([np.ravel(part) for part in drawn])
    assert len(np.unique(everything)) == len(everything)


def test_a_child_does_not_depend_on_how_many_there_are():
    np.testing.assert_array_equal(rng.split(rng.key(17), 2), rng.split(rng.key(17), 5)[:2])


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64, tf.uint8, tf.uint32, tf.uint64])
def test_fold_in_goes_by_the_value_not_the_dtype(dtype):
    key = rng.key(18)
    np.testing.assert_array_equal(rng.fold_in(key, tf.constant(200, dtype)), rng.fold_in(key, 200))


def test_fold_in_tells_apart_what_the_lower_word_does_not():
    key, numbers = rng.key(19), [5, 5 + 2**32, 5 + 2**40, -5]
    children = np.stack([rng.fold_in(key, number) for number in numbers])
    assert len(np.unique(children, axis=0)) == len(numbers)


def test_many_folded_in_outside_programs_are_the_same():
    numbers = np.array([0, 5, 2**31, 2**32 + 5, 2**40, -5])
    keys = np.stack([rng.key(seed).numpy() for seed in (0, 1, 2**33, 7, 2**64 - 1, 3)])
    expected = np.stack([rng.fold_in(key, number) for key, number in zip(keys, numbers, strict=True)])
    np.testing.assert_array_equal(rng.folded_in(keys, numbers), expected)
