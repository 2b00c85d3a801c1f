"""A compiled loop over a pure step, driven from Python in chunks of any length."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from rlresearch.runners.store import Store
from rlresearch.types import Tree


class CompiledLoop:
    """One XLA program that applies `step(learning, state, iteration) -> state` until it is told to stop.

    It holds two loops, one without learning for the first `silent` iterations and one with it: a
    condition inside one loop would copy every parameter through it at every step.
    The iteration is a scalar beside the state, not in it: members of a population share it, so that
    "is it time to learn" stays one scalar condition under the map.
    """

    def __init__(self, state: Tree, step: Callable, silent: int, fresh_row: Callable) -> None:
        self.iteration = 0
        self._iteration = tf.Variable(0, dtype=tf.int64)
        self.store = Store(state)
        self._step, self._silent, self._fresh_row = step, silent, fresh_row
        self._compiled = tf.function(self._chunk, jit_compile=True, autograph=False)

    def advance(self, iterations: int, fresh: bool) -> None:
        """Runs that many iterations; `fresh` first begins a new metrics row."""
        self._compiled(tf.constant(iterations, tf.int64), tf.constant(fresh))
        self.iteration += iterations

    def _chunk(self, iterations: tf.Tensor, fresh: tf.Tensor) -> None:
        begin, state = self._iteration.read_value(), self.store.read()
        emptied = self._fresh_row(state)
        state = tf.nest.map_structure(
            lambda old, new: old if new is old else tf.where(fresh, new, old), state, emptied
        )
        end = begin + iterations
        if self._silent:  # otherwise there is no first loop to compile
            state = self._loop(False, begin, tf.minimum(end, self._silent), state)
        state = self._loop(True, tf.maximum(begin, self._silent), end, state)
        self._iteration.assign_add(iterations)
        self.store.write(state)

    def _loop(self, learning: bool, begin: tf.Tensor, end: tf.Tensor, state: Tree) -> Tree:
        return tf.while_loop(
            lambda iteration, _: iteration < end,
            lambda iteration, state: (iteration + 1, self._step(learning, state, iteration)),
            (begin, state),
            parallel_iterations=1,
        )[1]
