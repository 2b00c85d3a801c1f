"""Many runs in one XLA program: the device loop mapped over members.

Members differ in their seed and in any floating-point hyperparameter; what changes shapes or the
moment of learning (integers, networks) is shared. A member draws exactly what it would draw alone.

A GPU computes all members at once. On a CPU a matrix product of small networks does not keep several cores busy: there
members are in shares of a few, and the program, compiled once, runs for as many shares at a time as there are cores.
Members that have ended stand still; the others move together, so that whole shares need not be computed any more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from typing import Any

import numpy as np
import tensorflow as tf

from rlresearch import rng, tree
from rlresearch.envs.device import DeviceEnv
from rlresearch.envs.task import Task
from rlresearch.errors import ConfigError, did_you_mean
from rlresearch.runners.device import device_collect, device_init
from rlresearch.runners.loop import CompiledLoop
from rlresearch.runners.placement import MemberPlacement
from rlresearch.runners.runner import Runner
from rlresearch.runners.step import TrainingStep, TrainState
from rlresearch.runtime import cpu
from rlresearch.types import Tree

SHARE = 4  # members: measured, smaller shares compute no faster
_MOST_SHARES = 32  # each has a call of its own


class PopulationRunner(Runner):
    """One member for each seed.

    values: by dotted path in the algorithm (`gamma`, `optimizer.lr`, `noise.sigma`), one value a member. changing: the
    paths among them whose values may change while it runs; the others are constants of the program.
    """

    def __init__(
        self,
        trainer: TrainingStep,
        task: Task,
        seeds: Sequence[int],
        values: Mapping[str, Sequence[float]] | None = None,
        changing: Sequence[str] = (),
    ) -> None:
        self.members, self.iteration, self.learning_start_iteration = tuple(seeds), 0, trainer.learning_start_iteration
        values = dict(values or {})
        check_values(trainer.algo, values, len(self.members))
        env = DeviceEnv(task)
        self._values = {path: tf.constant(list(each), tf.float32) for path, each in values.items()}
        self._values |= {path: tf.Variable(self._values[path]) for path in changing}
        collect = {
            learning: _mapped(lambda state, own, t, on=learning: device_collect(_with(trainer, own), env, on, state, t))
            for learning in (False, True)
        }
        learn = _mapped(lambda state, own, t: _with(trainer, own).learn_now(state, t))
        reset_metrics = _mapped(lambda state, own: _with(trainer, own).reset_metrics(state))
        self._shares = shares(len(self.members), bool(tf.config.list_logical_devices("GPU")))
        self._loops = self._started(
            [self._init(trainer, env, share) for share in self._shares],
            lambda state: CompiledLoop(
                state,
                lambda learning, state, iteration, own: collect[learning](state, own, iteration),
                lambda state, iteration, own: learn(state, own, iteration),
                trainer.learning_start_iteration,
                trainer.algo.update_every,
                reset_metrics,
            ),
        )
        self._places = MemberPlacement(self._shares)
        self._threads = ThreadPoolExecutor(min(len(self._loops), cpu.available()), "members")
        row = _mapped(lambda state, own: trainer.metrics(state))
        # Concrete: TensorFlow warns of functions traced again in every run.
        self._row = tf.function(
            lambda: row(self.state_unordered(), self.values()), autograph=False
        ).get_concrete_function()
        self._policy = tf.function(
            lambda obs: _mapped(lambda pair, own: trainer.policy(*pair))((self._acting(), obs), self.values()),
            autograph=False,
            reduce_retracing=True,
        )

    def values(self) -> dict[str, tf.Tensor]:
        """The members' hyperparameters by path, float32[M] each."""
        return {path: tf.convert_to_tensor(each) for path, each in self._values.items()}

    def _acting(self) -> TrainState:
        """The states without replay, of which acting needs nothing, by place."""
        return self.state_unordered()._replace(buffer=())

    @staticmethod
    def _started(states: Sequence[TrainState], made: Callable[[TrainState], CompiledLoop]) -> list[CompiledLoop]:
        """A loop for each state; those of as many members share one program."""
        loops: dict[int, CompiledLoop] = {}
        started = []
        for state in states:
            members = len(state.key)
            loops[members] = loops[members].with_state(state) if members in loops else made(state)
            started.append(loops[members])
        return started

    def _init(self, trainer: TrainingStep, env: DeviceEnv, share: slice) -> TrainState:
        """Members begin one by one, as Keras draws parameters; the empty replay is the same for all."""
        states = []
        for index in range(share.start, share.stop):
            own = {path: each[index] for path, each in self.values().items()}
            states.append(device_init(_with(trainer, own), env, rng.key(self.members[index])))
        buffer = tree.repeat(states[0].buffer, len(states))
        return tree.stack([state._replace(buffer=()) for state in states])._replace(buffer=buffer)

    def state(self) -> TrainState:
        """The members' states, stacked: every leaf has a leading axis of members."""
        return self._places.states(self.state_unordered())

    def state_unordered(self) -> TrainState:
        """The states as they are computed, also of members that have ended; in any order."""
        return tree.concat([loop.store.read() for loop in self._loops])

    def restore(self, iteration: int, state: TrainState, extra_state: Mapping[str, np.ndarray]) -> None:
        """Goes on from saved states, leaves [M, ...]. All members go on, until `set_active` says otherwise."""
        self._places, self.iteration = MemberPlacement(self._shares), iteration
        for loop, share in zip(self._loops, self._shares, strict=True):
            loop.restore(iteration, tf.nest.map_structure(lambda leaf, own=share: leaf[own], state))

    def set_active(self, active: Sequence[bool]) -> None:
        """From now on members that are not active stand still."""
        self._places.set_active(active, [loop.store for loop in self._loops])

    def advance(self, iterations: int, reset_metrics: bool) -> None:
        """Runs that many iterations of the active members. reset_metrics: first, the sums behind `metrics`."""
        values = self._places.by_place(self.values())
        own = [{path: each[share] for path, each in values.items()} for share in self._shares]
        running = [
            self._threads.submit(self._loops[index].advance, iterations, reset_metrics, own[index])
            for index in self._places.running
        ]
        wait(running)
        for each in running:
            each.result()
        self.iteration += iterations

    def metrics(self) -> list[dict[str, float]]:
        """The metrics since they were reset, by name, one dictionary a member."""
        columns = {name: self._places.by_member(value).numpy() for name, value in self._row().items()}
        return [{name: float(column[i]) for name, column in columns.items()} for i in range(len(self.members))]

    def policy(self, obs: np.ndarray) -> np.ndarray:
        """Deterministic actions [M, n, A] for observations [M, n, ...]; of no meaning for those that stand still."""
        return np.asarray(self._places.by_member(self._policy(self._places.by_place(obs))))

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown()


def shares(members: int, on_gpu: bool) -> list[slice]:
    """Which members are computed together. It does not depend on how many cores there are: their number should not
    change a result, and in smaller shares products are added up in another order.
    """
    most = 1 if on_gpu else min(max(members // SHARE, 1), _MOST_SHARES)
    even = [count for count in range(most, 0, -1) if members % count == 0 and members // count <= 2 * SHARE]
    count = (even or [most])[0]  # even ones, if there are some, share one program
    ends = [index * members // count for index in range(count + 1)]
    return [slice(begin, end) for begin, end in pairwise(ends)]


def check_values(algo: Any, values: Mapping[str, Sequence[float]], members: int) -> None:
    """ConfigError unless each path names a floating-point hyperparameter and has one value a member."""
    known = sorted(float_paths(algo))
    for path, each in values.items():
        if path not in known:
            raise ConfigError(
                f"runner.values: members cannot differ in '{path}'{did_you_mean(path, known)} "
                f"allowed: {', '.join(known)}."
            )
        if len(each) != members:
            raise ConfigError(f"runner.values: '{path}' has {len(each)} values for {members} members.")


def float_paths(component: Any, prefix: str = "") -> dict[str, float]:
    """The floating-point fields of a component and its parts, with their values, by dotted path."""
    found: dict[str, float] = {}
    for field in dataclasses.fields(component):
        value = getattr(component, field.name)
        if dataclasses.is_dataclass(value):
            found |= float_paths(value, f"{prefix}{field.name}.")
        elif isinstance(value, float):
            found[f"{prefix}{field.name}"] = value
    return found


def with_values(component: Any, values: Mapping[str, Any]) -> Any:
    """A copy of a component with other values at dotted paths; floats may become tensors."""
    changes: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        head, _, rest = path.partition(".")
        if rest:
            nested.setdefault(head, {})[rest] = value
        else:
            changes[head] = value
    changes |= {name: with_values(getattr(component, name), each) for name, each in nested.items()}
    return dataclasses.replace(component, **changes) if changes else component


def _with(trainer: TrainingStep, own: Mapping[str, tf.Tensor]) -> TrainingStep:
    return dataclasses.replace(trainer, algo=with_values(trainer.algo, own))


def _mapped(function: Callable[..., Tree]) -> Callable[..., Tree]:
    """`function(member's state, member's values, *shared)` over all members at once, or an error.

    Never a silent loop one by one: an operation without a converter raises.
    """

    def over_members(states: Tree, values: Tree, *shared: Tree) -> Tree:
        from rlresearch.runners import vectorization  # loads TensorFlow, which a refusal of this runner does not need

        vectorization.register()
        mapped = tf.vectorized_map(
            lambda row: function(row[0], row[1], *shared), (states, values), fallback_to_while_loop=False
        )
        if not tf.executing_eagerly():
            vectorization.refuse_uncompilable(tf.compat.v1.get_default_graph())
        return mapped

    return over_members
