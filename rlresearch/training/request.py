"""The request for a run: facts about the command, in addition to the plan made from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class RunRequest(NamedTuple):
    """config: plain and resolved. algo, env: the chosen names. argv, overrides: as typed.

    tuned, tuned_name: the tuned settings that Hydra added, by dotted key, and the name of their option. choices: the
    option of each group. own: more fields for the run.json of each member, or one mapping for all members. begun:
    called with the run directories once the run can be resumed. trials: one trial of a search per member; if empty,
    all members together are the trial of the configuration.
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
