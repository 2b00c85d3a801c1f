"""Members of a population that have ended stand still, the others move together: shares stand for programs here."""

import numpy as np
import pytest
import tensorflow as tf

from rlresearch.runners.placement import MemberPlacement
from rlresearch.runners.store import Store

SIZES = {"even": [4, 4, 4], "uneven": [5, 4, 4], "one": [6]}


def slices(sizes):
    ends = np.cumsum([0, *sizes])
    return [slice(int(a), int(b)) for a, b in zip(ends[:-1], ends[1:], strict=True)]


def state_of(members):
    """Small leaves, a large one, a flag and a key, each of which tells whose it is."""
    whose = np.array(members)
    wide = np.repeat(whose[:, None], 2**14, axis=1).astype(np.float32)
    return {"count": tf.zeros(len(whose)), "key": tf.constant(whose, tf.uint32), "odd": whose % 2 == 1, "wide": wide}


def concatenated(stores):
    return tf.nest.map_structure(lambda *leaves: tf.concat(leaves, axis=0), *[store.read() for store in stores])


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("seed", range(4))
def test_whoever_ends_stands_still_and_no_share_runs_for_nobody(sizes, seed):
    rng, members = np.random.default_rng(seed), sum(sizes)
    stores = [Store(state_of(range(share.start, share.stop))) for share in slices(sizes)]
    places, going, ran = MemberPlacement(slices(sizes)), [True] * members, np.zeros(members)
    while any(going):
        for index in places.running:
            state = stores[index].read()
            stores[index].write(state | {"count": state["count"] + 1.0, "wide": state["wide"] + 1.0})
        ran += going
        for member in rng.permutation(members)[: rng.integers(1, 4)]:
            going[member] = False
        if not any(going):
            break
        places.set_active(going, stores)
        state = places.states(concatenated(stores))
        np.testing.assert_array_equal(state["count"], ran)
        np.testing.assert_array_equal(state["wide"][:, -1], np.arange(members) + ran)
        np.testing.assert_array_equal(state["key"], np.arange(members))
        np.testing.assert_array_equal(state["odd"], np.arange(members) % 2 == 1)
        needed = dict.fromkeys(sizes, 0)
        for share, size in zip(slices(sizes), sizes, strict=True):
            needed[size] += sum(going[share])
        assert len(places.running) == sum(-(-count // size) for size, count in needed.items())
        np.testing.assert_array_equal(places.by_member(places.by_place(tf.range(members))), np.arange(members))


def test_values_follow_their_member():
    stores = [Store(state_of(range(4))), Store(state_of(range(4, 8)))]
    places = MemberPlacement(slices([4, 4]))
    going = [False, True, True, True, False, False, True, False]
    places.set_active(going, stores)
    assert places.running == [0]
    own = places.by_place(tf.range(8) * 10)
    np.testing.assert_array_equal(own // 10, concatenated(stores)["key"])
