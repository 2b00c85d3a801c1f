"""Ends members of a run that are trials of a search and not worth going on with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlresearch.training.callbacks import Callback, EvaluationResult, Members
from rlresearch.training.optuna_trial import TrialMembers, TrialReporter


class Pruner(Callback):
    """Tells studies the evaluations of their trials, and ends the members of trials that a study prunes.

    trials: which members are which trial; others are never pruned. last_step: the evaluation there prunes nobody. A
    study that cannot be reached is warned of, and its members train on.
    """

    def __init__(self, trials: Sequence[TrialMembers], members: Members, last_step: int) -> None:
        self.members, self._last_step = members, last_step
        self._reporters = [TrialReporter(trial) for trial in trials]

    def resume(self, step: int, returns: Sequence[Sequence[float]]) -> None:
        """For a run that is resumed at `step`. returns: of each member, the mean of each evaluation made before.

        Trials that were pruned by then stay pruned.
        """
        for each in self._reporters:
            each.restore_scores([returns[member] for member in each.members])
            if each.pruned_at is not None and each.pruned_at <= step:
                self._end(each, each.pruned_at)

    def on_evaluation(self, result: EvaluationResult) -> None:
        """Tells each study the mean returns of its members, and ends those of a trial that is pruned."""
        for each in self._reporters:
            if not self.members.active[each.members[0]]:
                continue
            means = [result.evaluations[member].mean for member in each.members]
            if not each.should_continue(result.step, means) and result.step < self._last_step:
                self._end(each, result.step)

    def record(self, summaries: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]) -> None:
        """Tells each study how its trial ended.

        summaries: of each member, as in run.json; runs: of each member the `path` and its last row of metrics, `row`.
        """
        for each in self._reporters:
            each.record([summaries[member] for member in each.members], [runs[member] for member in each.members])

    def _end(self, reporter: TrialReporter, step: int) -> None:
        for member in reporter.members:
            self.members.end(member, step)
