"""What is known of one process' part of a run, from what was asked for to what is open."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlresearch.loggers.console import Display
from rlresearch.loggers.wandb.supervisor import Beside
from rlresearch.storage.run_directory import RunDirectory
from rlresearch.training.experiment import Plan
from rlresearch.training.member_failures import Lost
from rlresearch.training.pruning import Judge
from rlresearch.training.resume import Resumption


class Request(NamedTuple):
    """What was asked for, beside the plan made of it.

    config: plain and resolved. algo, env: the names chosen. argv, overrides: as typed. tuned: settings
    that applied by themselves, by dotted key, and the name they have. choices: the option of each group.
    own: what each member's run.json says for itself, or the only one's for all. begun: told of the directories once one
    can go on from them. trials: of a search, one a member, where members are different ones; the configuration's is of
    all members together.
    """

    config: dict[str, Any]
    algo: str
    env: str
    argv: Sequence[str]
    overrides: Sequence[str]
    tuned_name: str | None = None
    tuned: Mapping[str, Any] = {}
    choices: Mapping[str, Any] = {}
    own: Sequence[Mapping[str, Any]] = ({},)
    begun: Callable[[Sequence[Path]], None] = lambda _: None
    trials: Sequence[Mapping[str, Any] | None] = ()


class Session(NamedTuple):
    """One process' part of a run. trained_s, elapsed_s: what the run has behind it; cut: for each member the rows that
    are to be written again; beside: the process that mirrors it, once it has been started; lost: the members of a fused
    program that failed, by place.
    """

    plan: Plan
    request: Request
    directories: list[RunDirectory]
    display: Display
    began: float
    resumption: Resumption | None = None
    trained_s: float = 0.0
    elapsed_s: float = 0.0
    cut: Sequence[Mapping[str, list[dict]]] = ()
    beside: list[Beside] = []
    judge: Judge | None = None
    lost: Lost | None = None

    def elapsed(self) -> float:
        """Seconds of the whole run so far."""
        return self.elapsed_s + time.perf_counter() - self.began


def last_step(plan: Plan) -> int:
    """The transitions of a whole run, which are whole rounds of all environments."""
    return -(-plan.settings.total_steps // plan.task.num_envs) * plan.task.num_envs
