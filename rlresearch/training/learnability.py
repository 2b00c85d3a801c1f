"""What keeps a run from learning: a table of what is known before it begins, and a look at what shows only later.

Each row of CONDITIONS is a mistake that no error ends: the run would go on to its end and learn nothing, or not what
was asked for. In a new run a row that is certain refuses the command. Otherwise its sentence is a warning, on the
console and under `warnings` in run.json. `StandstillCheck` finds what no arithmetic tells: networks that never move.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import tensorflow as tf

from rlresearch import tree
from rlresearch.runners.runner import Runner
from rlresearch.runners.step import TrainingStep
from rlresearch.training.callbacks import Callback
from rlresearch.types import Algorithm, Buffer, Tree

ZERO = 1e-6  # of a factor: a smaller step changes no weight of usual size in float32
TENTH = 0.1  # of a run: longer without learning is a mistake, shorter may be an end that was meant
SCHEDULES = ("optimizer.schedule", "schedule", "clip_schedule", "noise.schedule")  # their paths in an algorithm
BOUNDED = ("tanh", "softsign", "sigmoid")
_EVER = 1e18  # counts, after which a schedule has come to its end
_STILL = 3  # looks in a row at least: the last step of a line that ends with its run is of size 0
_POINTS, _LOOKS = 200, 50  # of a run: where schedules are asked, and how often its networks are looked at


class Ahead(NamedTuple):
    """What a run has before it: from step `begin` to step `end`, and in it so many `updates`, gradient steps.

    interval: steps from a round of learning to the next; period: the setting that decides it. rows: of a gradient step.
    needed: rows that a sum of n_step rewards reaches over; cut: the share of stored rows whose sum cannot be whole.
    moves: how often what has a period of its own changes, by the period's name. zero: for each schedule the share of
    the run in which its factor is 0. waiting: schedules that change only after the run. unfit, bounded: outputs of
    networks that do not fit.
    """

    algo: Algorithm
    buffer: Buffer
    begin: int
    end: int
    updates: int
    interval: int
    period: str
    rows: int
    needed: int
    cut: float
    moves: Mapping[str, int]
    zero: Mapping[str, float]
    waiting: Sequence[str]
    unfit: Sequence[str]
    bounded: Sequence[str]


class Condition(NamedTuple):
    """A row of the table. certain: no run of this kind is of use. sentence: with the fields of `Ahead` in braces."""

    certain: bool
    holds: Callable[[Ahead], object]
    sentence: str


CONDITIONS = (
    # No update falls due.
    Condition(
        True,
        lambda run: run.algo.learning_starts >= run.end,
        "algo.learning_starts={algo.learning_starts}: must be below total_steps, which is {end}; "
        "nothing would be learned.",
    ),
    Condition(
        True,
        lambda run: run.algo.LEARNS_FROM == "rollouts" and run.algo.batch_size > run.end,
        "total_steps={end}: must be at least one rollout, which is {algo.batch_size}; nothing would be learned.",
    ),
    Condition(
        True,
        lambda run: (
            run.updates == 0
            and run.algo.learning_starts < run.end
            and not (run.algo.LEARNS_FROM == "rollouts" and run.algo.batch_size > run.end)
        ),
        "algo.{period}={algo.update_every}: no update falls due from step {begin} to {end}: rounds of learning are "
        "{interval} steps apart and begin after algo.learning_starts={algo.learning_starts}; nothing would be learned.",
    ),
    # Updates that learn nothing.
    Condition(
        True,
        lambda run: run.rows == 1 and getattr(run.algo, "normalize_advantages", False),
        "algo.normalize_advantages=true: a gradient step has one row, and the advantage of one row is 0 then: the "
        "policy would learn nothing; choose fewer minibatches or longer rollouts, or normalize_advantages=false.",
    ),
    Condition(
        True,
        lambda run: run.zero.get("optimizer.schedule", 0.0) > TENTH,
        "optimizer.schedule: the learning rate is 0 for {zero[optimizer.schedule]:.0%} of the steps from {begin} to "
        "{end}, in which nothing is learned; over=null ends a line with its run, and end=NUMBER stays above 0.",
    ),
    Condition(
        True,
        lambda run: run.zero.get("schedule", 0.0) > TENTH,
        "algo.schedule: the step size is 0 for {zero[schedule]:.0%} of the steps from {begin} to {end}, in which "
        "nothing is learned; over=null ends a line with its run, and end=NUMBER stays above 0.",
    ),
    Condition(
        True,
        lambda run: run.zero.get("clip_schedule", 0.0) > TENTH,
        "algo.clip_schedule: the clip is 0 for {zero[clip_schedule]:.0%} of the steps from {begin} to {end}, in which "
        "the policy does not move; over=null ends a line with its run, and end=NUMBER stays above 0.",
    ),
    # Parts that do not fit.
    Condition(True, lambda run: run.unfit, "{unfit[0]}, which takes actions from it as they are."),
    Condition(
        True,
        lambda run: run.buffer.capacity < run.needed,
        "buffer.capacity={buffer.capacity}: must be at least buffer.n_step times env.num_envs, which is {needed}: "
        "otherwise no row has all of its {buffer.n_step} rewards.",
    ),
    Condition(
        False,
        lambda run: run.buffer.capacity >= run.needed and run.cut > TENTH,
        "buffer.capacity={buffer.capacity}: {cut:.0%} of the rows have fewer than buffer.n_step={buffer.n_step} "
        "rewards, for the newest steps of each environment have no successors yet.",
    ),
    Condition(
        False,
        lambda run: run.bounded,
        "{bounded[0]}: the network's values stay within those bounds, whatever the returns are.",
    ),
    # Parts that never move.
    Condition(
        False,
        lambda run: run.updates and not run.moves["target_every"],
        "algo.target_every={algo.target_every}: the target network never moves in the {updates} gradient steps from "
        "step {begin} to {end}.",
    ),
    Condition(
        False,
        lambda run: run.updates and not run.moves["policy_delay"],
        "algo.policy_delay={algo.policy_delay}: the policy never moves in the {updates} gradient steps from step "
        "{begin} to {end}.",
    ),
    Condition(
        False,
        lambda run: run.waiting,
        "{waiting[0]}: is the same from step {begin} to {end}; it changes only later.",
    ),
)


class Obstacle(NamedTuple):
    """The sentence of a row that holds, and whether it is certain."""

    sentence: str
    certain: bool


def obstacles(trainer: TrainingStep, total_steps: int, first: int = 0) -> list[Obstacle]:
    """What is wrong with the rest of a run, from iteration `first` on, in the order of the table."""
    run = _ahead(trainer, total_steps, first)
    return [Obstacle(row.sentence.format(**run._asdict()), row.certain) for row in CONDITIONS if row.holds(run)]


def _ahead(trainer: TrainingStep, total_steps: int, first: int) -> Ahead:
    algo: Any = trainer.algo  # of which some have settings that others have not
    buffer, num_envs = trainer.buffer, algo.spec.num_envs
    begin, end = first * num_envs, max(total_steps, first * num_envs)
    before, after = (max(trainer.updates_by(each), 0) for each in (first, -(-end // num_envs)))
    spans = {"step": (begin, end), "update": (before, after)}
    found = {path: reduce(lambda part, name: getattr(part, name, None), path.split("."), algo) for path in SCHEDULES}
    known = {path: each for path, each in found.items() if hasattr(each, "value_at")}
    asked = {path: each for path, each in known.items() if getattr(each, "per", "") in spans}
    factors = {path: _factors(each.value_at, *spans[each.per]) for path, each in asked.items()}
    outputs = {name: getattr(getattr(algo, name, None), "output_activation", None) for name in ("actor", "critic", "q")}
    told = {name: f"network.{name}.output_activation={each}" for name, each in outputs.items() if each is not None}
    fitting, kind = getattr(algo, "OUTPUTS", {}), type(algo).__name__
    period = {name: getattr(algo, name, 1) for name in ("target_every", "policy_delay")}
    return Ahead(
        algo=algo,
        buffer=buffer,
        begin=begin,
        end=end,
        updates=after - before,
        interval=algo.update_every * num_envs,
        period="rollout_steps" if algo.LEARNS_FROM == "rollouts" else "update_every",
        rows=algo.batch_size // getattr(algo, "minibatches", 1),
        needed=getattr(buffer, "n_step", 1) * num_envs,
        cut=(getattr(buffer, "n_step", 1) - 1) * num_envs / buffer.capacity,
        moves={name: after // each - before // each for name, each in period.items()},
        zero={path: sum(each < ZERO for each in own) / _POINTS for path, own in factors.items()},
        waiting=[path for path, own in factors.items() if len({*own}) == 1 and asked[path].value_at(_EVER) != own[0]],
        unfit=[
            f"{told[name]}: must be {' or '.join(allowed)} for {kind}"
            for name, allowed in fitting.items()
            if name in told and outputs[name] not in allowed
        ],
        bounded=[each for name, each in told.items() if name != "actor" and outputs[name] in BOUNDED],
    )


def _factors(at: Callable[[float], float], begin: int, end: int) -> list[float]:
    """A schedule's factors at evenly spread counts from one to another."""
    return [at(begin + (end - begin) * index / _POINTS) for index in range(_POINTS)]


class Look(NamedTuple):
    """The sum of a network's parameters at a step, after so many gradient steps. number: of the look, from 1."""

    total: float
    step: int
    updates: int
    number: int


class StandstillCheck(Callback):
    """Tells of networks that do not change in more than a tenth of a run, though gradient steps are taken.

    So it is where all advantages are 0, where a learning rate has fallen to 0 by episodes, where every unit is dead.
    Targets may stand still. total_steps: of the run; tell: hears a sentence, once a network.
    """

    def __init__(self, runner: Runner, trainer: TrainingStep, total_steps: int, tell: Callable[[str], None]) -> None:
        self._runner, self._trainer, self._total_steps, self._tell = runner, trainer, total_steps, tell
        self._sums: Callable[[], dict[str, tf.Tensor]] | None = None
        self._seen: dict[str, Look] = {}  # by network, the look since which it has been the same
        self._told: set[str] = set()
        self._looked, self._looks = 0, 0

    def on_rows(self, step: int, rows: Sequence[dict[str, Any]]) -> None:
        """Compares each network with what it was, and tells once of one that stands still."""
        if self._looks and step - self._looked < self._total_steps / _LOOKS:
            return
        self._looked, self._looks = step, self._looks + 1
        updates = max(self._trainer.updates_by(self._runner.iteration), 0)
        for name, total in self._now().items():
            now = Look(total, step, updates, self._looks)
            since = self._seen.setdefault(name, now)
            if total != since.total:
                self._seen[name] = now
            elif name not in self._told and self._is_long(since, now):
                self._told.add(name)
                self._tell(
                    f"network '{name}' has not changed from step {since.step} to {step}, though it took "
                    f"{updates - since.updates} gradient steps: its gradients or its learning rate are 0."
                )

    def _is_long(self, since: Look, now: Look) -> bool:
        """Whether a network that has not changed between two looks should have."""
        learning = now.updates > since.updates and now.number - since.number >= _STILL
        return learning and now.step - since.step > TENTH * self._total_steps

    def _now(self) -> dict[str, float]:
        if self._sums is None:  # concrete: TensorFlow warns of functions traced again in every run
            self._sums = tf.function(
                lambda: _sums(self._runner.state_unordered().algo), autograph=False
            ).get_concrete_function()
        return {name: float(each) for name, each in self._sums().items()}


def _sums(algo: Tree) -> dict[str, tf.Tensor]:
    """The sum float64 of all parameters of each network, all members together; targets aside."""
    found: dict[str, tf.Tensor] = {}
    for name, leaf in tree.named_leaves(algo):
        network, trained, _ = name.partition(".trainable.")
        if trained and not network.startswith("target"):
            found[network] = found.get(network, 0.0) + tf.reduce_sum(tf.cast(leaf, tf.float64))
    return found
