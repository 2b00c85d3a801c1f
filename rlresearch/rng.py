"""Random numbers as pure functions of a key: Threefry-2x32, 20 rounds.

Source: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011), checked
against the published vectors of their library Random123. A key is uint32[2]. A block is a function of a key
and a two-word counter, and holds two random words; nothing is stored between calls. The same key always
gives the same numbers: use a key once, for one `split`, or any number of `fold_in`, or one draw.

Everything up to the words is integer arithmetic on uint32, so that a member of a population, a compiled
program and an eager call get the same words on CPU and GPU (`tf.random.stateless_*` and `tf.bitcast` have
no `tf.vectorized_map` converter). Shapes are static Python tuples, k is their number of elements.

Differences from Random123 and JAX:
1. The second counter word tags the purpose of a block, so a key that is both split and drawn from by
   mistake still gives unrelated numbers. `fold_in` uses the counters whose second word is the upper half of
   its number; the tags lie where no number below 2**62 reaches.
2. Integers spend both words of a block each: their bias is below 2**-32 of a probability.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA  # of Skein: keeps an all-zero key schedule away
_ROUNDS = 12  # of a permutation; from 8 on its tests saw no difference from a uniform one
DRAW, SPLIT = 0x64726177, 0x73706C69  # "draw", "spli": both at least 2**30


def threefry2x32(key: tf.Tensor, counters: tf.Tensor) -> tf.Tensor:
    """The random block of each counter: uint32[2], uint32[..., 2] -> uint32[..., 2]."""
    words = blocks(key, *tf.unstack(tf.reshape(counters, (-1, 2)), axis=1))
    return tf.reshape(tf.stack(words, axis=1), counters.shape)


def key(seed: int) -> tf.Tensor:
    """The key uint32[2] of a seed in [0, 2**64): its upper and its lower word."""
    if not 0 <= seed < 2**64:
        raise ValueError(f"a seed is a whole number from 0 to 2**64 - 1, not {seed}.")
    return tf.constant([seed >> 32, seed & 0xFFFFFFFF], tf.uint32)


def split(key: tf.Tensor, num: int = 2) -> tf.Tensor:
    """Independent keys uint32[num, 2]; take them apart with `tf.unstack`. Child i does not depend on num."""
    return tf.stack(_counted(key, num, SPLIT), axis=1)


def fold_in(key: tf.Tensor, data: tf.Tensor | int) -> tf.Tensor:
    """The key uint32[2] that belongs to `key` and to a number, such as a step or a member's index.

    data: int or integer scalar. Its value decides, not its dtype: int32 7 and int64 7 give the same key.
    """
    data = tf.cast(data, tf.int64)
    low = tf.reshape(tf.cast(tf.bitwise.bitwise_and(data, 0xFFFFFFFF), tf.uint32), (1,))
    high = tf.reshape(tf.cast(tf.bitwise.bitwise_and(tf.bitwise.right_shift(data, 32), 0xFFFFFFFF), tf.uint32), (1,))
    return tf.concat(blocks(key, low, high), axis=0)


def folded_in(keys: np.ndarray, data: np.ndarray) -> np.ndarray:
    """`fold_in` of many, where no program is at hand and to compile one would take longer than the numbers.

    keys: uint32[n, 2]; data: int64[n]; returns uint32[n, 2].
    """
    low, high = ((data >> shift & 0xFFFFFFFF).astype(np.uint32)[None] for shift in (0, 32))
    return np.concatenate(blocks(keys.T, low, high)).T


def bits(key: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
    """Random words uint32[shape], from ceil(k / 2) blocks."""
    size = math.prod(shape)
    words = tf.concat(_counted(key, (size + 1) // 2, DRAW), axis=0)
    return tf.reshape(words[:size], shape)


def uniform(key: tf.Tensor, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> tf.Tensor:
    """Uniform float32[shape] in [low, high), a multiple of 2**-24 before it is scaled.

    low, high: numbers or float32 tensors that broadcast to `shape`. [0, 1) never yields 1; with other
    bounds the last rounding may yield `high` itself.
    """
    unit = unit_interval(bits(key, shape))
    if isinstance(low, (int, float)) and isinstance(high, (int, float)) and (low, high) == (0, 1):
        return unit
    return low + (high - low) * unit


def normal(key: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
    """Standard normal float32[shape], at most 6.8 from 0 (Box & Muller 1958; both numbers of a pair are used)."""
    size = math.prod(shape)
    first, second = _counted(key, (size + 1) // 2, DRAW)
    # All 32 bits go into the radius, as they decide the tail. The half keeps the logarithm from 0.
    radius = tf.sqrt(-2.0 * tf.math.log((tf.cast(first, tf.float32) + 0.5) * 2.0**-32))
    angle = (2.0 * math.pi) * unit_interval(second)
    pairs = tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], axis=0)
    return tf.reshape(pairs[:size], shape)


def gumbel(key: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
    """Standard Gumbel float32[shape], from -2.9 to 22.9: minus the logarithm of an exponential number.

    Of logits plus such numbers the largest is action i with probability softmax(logits)_i.
    """
    # All 32 bits go into the upper tail, which decides; the bound keeps the inner logarithm from infinity.
    unit = tf.minimum((tf.cast(bits(key, shape), tf.float32) + 0.5) * 2.0**-32, 1.0 - 2.0**-24)
    return -tf.math.log(-tf.math.log1p(-unit))


def randint(key: tf.Tensor, shape: tuple[int, ...], maximum: tf.Tensor | int) -> tf.Tensor:
    """Uniform int32[shape] in [0, maximum); maximum: int or integer scalar tensor from 1 to 2**31.

    The upper word of a 64-bit random number times `maximum` (Lemire 2019, without his rejection).
    A 32-bit number would make some of 1.6e9 integers one and a half times as likely as others.
    """
    high, low = (tf.cast(word, tf.uint64) for word in _counted(key, math.prod(shape), DRAW))
    if isinstance(maximum, int):
        maximum = tf.constant(maximum, tf.int64)  # 2**31 is no int32
    maximum = tf.cast(maximum, tf.uint64)
    carry = tf.bitwise.right_shift(low * maximum, 32)
    product = tf.bitwise.right_shift(high * maximum + carry, 32)
    return tf.reshape(tf.cast(product, tf.int32), shape)


def permutation(key: tf.Tensor, n: int) -> tf.Tensor:
    """The numbers 0 to n - 1 in random order, int32[n].

    Where n is a product of two numbers of alike size, a Feistel network over them, whose tests cannot tell it from a
    uniform draw (Luby & Rackoff 1988; over such pairs Black & Rogaway 2002): compiled for a CPU, to sort takes fifty
    times as long. Other n, and those below 64, are sorted by 64-bit random numbers.
    """
    narrow = max(each for each in range(1, math.isqrt(n) + 1) if n % each == 0) if n else 1
    wide = n // narrow
    if n < 64 or wide > 8 * narrow:
        high, low = (tf.cast(word, tf.int64) for word in _counted(key, n, DRAW))
        return tf.argsort(tf.bitwise.left_shift(high, 32) + low)
    left, right = (tf.cast(each, tf.uint32) for each in (tf.range(n) // wide, tf.range(n) % wide))
    secrets = iter(tf.unstack(bits(key, (_ROUNDS,))))
    for _ in range(_ROUNDS // 2):
        left = _turned(left, _mixed(right + next(secrets)), narrow)
        right = _turned(right, _mixed(left + next(secrets)), wide)
    return tf.cast(left * wide + right, tf.int32)


def _turned(place: tf.Tensor, by: tf.Tensor, size: int) -> tf.Tensor:
    """place + by modulo size, uint32[n], for places below size < 2**16; of `by` the upper half counts."""
    moved = place + tf.bitwise.right_shift(tf.bitwise.right_shift(by, 16) * size, 16)
    return tf.where(moved >= size, moved - size, moved)


def _mixed(word: tf.Tensor) -> tf.Tensor:
    """A hash of each word, uint32[n]: the end of MurmurHash3 (Appleby 2011)."""
    word = tf.bitwise.bitwise_xor(word, tf.bitwise.right_shift(word, 16)) * tf.constant(0x85EBCA6B, tf.uint32)
    word = tf.bitwise.bitwise_xor(word, tf.bitwise.right_shift(word, 13)) * tf.constant(0xC2B2AE35, tf.uint32)
    return tf.bitwise.bitwise_xor(word, tf.bitwise.right_shift(word, 16))


def unit_interval(words: tf.Tensor) -> tf.Tensor:
    """uint32[...] -> float32[...] in [0, 1), by the top 24 bits: a float32 holds them exactly, so 1 never comes out."""
    return tf.cast(tf.bitwise.right_shift(words, 8), tf.float32) * 2.0**-24


def _counted(key: tf.Tensor, num: int, tag: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The blocks of the counters (0, tag) to (num - 1, tag), as two words uint32[num]."""
    return blocks(key, tf.cast(tf.range(num), tf.uint32), tf.constant([tag], tf.uint32))


def blocks(key: tf.Tensor, x0: tf.Tensor, x1: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Threefry-2x32-20 of the counters (x0, x1), each uint32[n] or uint32[1], in tensors or NumPy's arrays.

    Every random number of this module is made of these words, uint32[n] each.
    """
    k0, k1 = key[:1], key[1:]  # rank 1 like the counters, or a map would reshape at every round
    schedule = (k0, k1, k0 ^ k1 ^ _PARITY)
    x0, x1 = x0 + k0, x1 + k1
    for group in range(1, 6):
        for rotation in _ROTATIONS[(group - 1) % 2]:
            x0 = x0 + x1
            x1 = _rotated(x1, rotation) ^ x0
        x0 = x0 + schedule[group % 3]
        x1 = x1 + (schedule[(group + 1) % 3] + group)
    return x0, x1


def _rotated(word: tf.Tensor, by: int) -> tf.Tensor:
    if isinstance(word, np.ndarray):
        return word << by | word >> (32 - by)
    return tf.bitwise.bitwise_or(tf.bitwise.left_shift(word, by), tf.bitwise.right_shift(word, 32 - by))
