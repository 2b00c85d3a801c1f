"""What a prioritized draw costs: one batch found in the sum tree and its priorities put back, in a compiled loop.

    PYTHONPATH=. python scripts/benchmarks/replay_cost.py

Beside it the alternative: cumulative sums of all priorities, and a search in them.
"""

import time

import tensorflow as tf

from rlresearch import rng
from rlresearch.buffers import sum_tree

BATCH, CAPACITIES, FANOUTS = 64, (10_000, 1_000_000), (2, 4, 8, 16, 64)


def by_tree(sizes, heights, fresh, capacity):
    places = sum_tree.search(sizes, heights * sum_tree.total(sizes), capacity)
    return sum_tree.update(sizes, places, fresh, capacity)


def by_sums(sizes, heights, fresh, capacity):
    ends = tf.cumsum(sizes)
    places = tf.minimum(tf.searchsorted(ends, heights * ends[-1], side="right"), capacity - 1)
    return tf.tensor_scatter_nd_update(sizes, places[:, None], fresh)


def microseconds(draw, start, capacity, rounds):
    """For each batch, the best of three runs."""
    kept = tf.Variable(start)

    def body(i, sizes):
        low, fresh = tf.unstack(tf.cast(rng.uniform(rng.fold_in(rng.key(0), i), (2, BATCH)), tf.float64))
        return i + 1, draw(sizes, (tf.range(BATCH, dtype=tf.float64) + low) / BATCH, fresh, capacity)

    @tf.function(jit_compile=True, autograph=False)
    def run(count):
        kept.assign(tf.while_loop(lambda i, _: i < count, body, (tf.constant(0), kept.read_value()))[1])

    run(tf.constant(1))
    took = []
    for _ in range(3):
        begin = time.perf_counter()
        run(tf.constant(rounds))
        took.append(time.perf_counter() - begin)
    return 1e6 * min(took) / rounds


def main():
    for capacity in CAPACITIES:
        sizes = tf.cast(rng.uniform(rng.key(1), (capacity,)), tf.float64)
        for fanout in FANOUTS:
            sum_tree.FANOUT = fanout
            tree = sum_tree.update(sum_tree.empty(capacity), tf.range(capacity), sizes, capacity)
            _report(capacity, f"tree of {fanout:>2}", microseconds(by_tree, tree, capacity, 500))
        _report(capacity, "sums", microseconds(by_sums, sizes, capacity, 20))


def _report(capacity, name, each):
    print(f"{capacity:>9,} rows  {name:<10}  {each:10.1f} us a batch of {BATCH}, {each / BATCH:.2f} a draw")


if __name__ == "__main__":
    main()
