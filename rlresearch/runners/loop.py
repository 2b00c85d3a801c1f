"""A compiled loop over pure functions, driven from Python in chunks of any length."""

from __future__ import annotations

import copy
from collections.abc import Callable

import tensorflow as tf

from rlresearch.runners.store import Store
from rlresearch.types import Tree

Step = Callable[..., Tree]  # see CompiledLoop


class CompiledLoop:
    """One XLA program that applies `collect(learning, state, iteration, *own) -> state` until it is told to stop, and
    after every `every`-th iteration, but for the first `silent` ones, `learn(state, iteration, *own) -> state`.

    It holds two loops, one without learning and one with it, and where learning is not due every time, the
    second holds a loop up to the next time: a condition inside the innermost loop would copy parameters
    and rollouts through it at every step.
    The iteration is a scalar beside the state, not in it: members of a population share it, so that
    "is it time to learn" stays one scalar condition outside the map.
    """

    def __init__(self, state: Tree, collect: Step, learn: Step, silent: int, every: int, reset_metrics: Step) -> None:
        self.iteration = 0
        self._iteration = tf.Variable(0, dtype=tf.int64)
        self.store = Store(state)
        self._collect, self._learn, self._reset_metrics = collect, learn, reset_metrics
        self._silent, self._every = silent, every
        self._chunks = tf.function(self._chunk, jit_compile=True, autograph=False)

    def with_state(self, state: Tree) -> CompiledLoop:
        """The same loop over another state of the same shapes, by the same program: it is compiled once."""
        other = copy.copy(self)
        other.store, other._iteration = Store(state), tf.Variable(self._iteration)
        return other

    def advance(self, iterations: int, reset_metrics: bool, *own: Tree) -> None:
        """Runs that many iterations. reset_metrics: first, the metrics' sums. own: passed on to the functions."""
        self._chunks(
            self.store.variables, self._iteration, tf.constant(iterations, tf.int64), tf.constant(reset_metrics), *own
        )
        self.iteration += iterations

    def restore(self, iteration: int, state: Tree) -> None:
        """Goes on from another state, before that iteration."""
        self.iteration = iteration
        self._iteration.assign(iteration)
        self.store.write(state)

    def _chunk(
        self, variables: list[tf.Variable], counter: tf.Variable, iterations: tf.Tensor, fresh: tf.Tensor, *own: Tree
    ) -> None:
        store = self.store.bind(variables)
        begin, state = counter.read_value(), store.read()
        emptied = self._reset_metrics(state, *own)
        state = tf.nest.map_structure(lambda old, new: old if new is old else tf.where(fresh, new, old), state, emptied)
        end = begin + iterations
        if self._silent:  # otherwise there is no first loop to compile
            state = self._collected(False, begin, tf.minimum(end, self._silent), state, own)
        state = self._learned(tf.maximum(begin, self._silent), end, state, own)
        counter.assign_add(iterations)
        store.write(state)

    def _learned(self, begin: tf.Tensor, end: tf.Tensor, state: Tree, own: tuple[Tree, ...]) -> Tree:
        """The state at `end`, rounds of learning included."""
        if self._every == 1:

            def both(t: tf.Tensor, state: Tree) -> tuple[tf.Tensor, Tree]:
                return t + 1, self._learn(self._collect(True, state, t, *own), t, *own)

            return _loop(begin, end, state, both)

        def round_of_learning(begin: tf.Tensor, state: Tree) -> tuple[tf.Tensor, Tree]:
            until = tf.minimum(end, (begin // self._every + 1) * self._every)
            state = self._collected(True, begin, until, state, own)
            due = tf.equal(until % self._every, 0)
            return until, tf.cond(due, lambda: self._learn(state, until - 1, *own), lambda: state)

        return _loop(begin, end, state, round_of_learning)

    def _collected(self, learning: bool, begin: tf.Tensor, end: tf.Tensor, state: Tree, own: tuple[Tree, ...]) -> Tree:
        return _loop(begin, end, state, lambda t, state: (t + 1, self._collect(learning, state, t, *own)))


def _loop(begin: tf.Tensor, end: tf.Tensor, state: Tree, body: Step) -> Tree:
    return tf.while_loop(lambda t, _: t < end, body, (begin, state), parallel_iterations=1)[1]
