"""Ends members of a run that are trials of a search, when their study prunes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlresearch.training.callbacks import Callback, EvaluationResult, Members
from rlresearch.training.optuna_trial import TrialMembers, TrialReporter


class Pruner(Callback):
    """Reports evaluations to the studies of trials, and ends the members of trials that a study prunes.

    trials: the members of each trial; other members are never pruned. last_step: the evaluation at this step prunes no
    member. If a study cannot be reached, there is a warning, and its members continue to train.
    """

    def __init__(self, trials: Sequence[TrialMembers], members: Members, last_step: int) -> None:
        self.members, self._last_step = members, last_step
        self._reporters = [TrialReporter(trial) for trial in trials]

    def resume(self, step: int, returns: Sequence[Sequence[float]]) -> None:
        """Prepares a run that is resumed at `step`. returns: for each member, the mean of each earlier evaluation.

        Trials that were pruned before this step stay pruned.
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
        """Reports to each study how its trial ended.

        summaries: for each member, as in run.json. runs: for each member, its `path` and its last metrics row `row`.
        """
        for each in self._reporters:
            each.record([summaries[member] for member in each.members], [runs[member] for member in each.members])

    def _end(self, reporter: TrialReporter, step: int) -> None:
        for member in reporter.members:
            self.members.end(member, step)
