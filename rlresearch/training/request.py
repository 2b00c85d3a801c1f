"""The request for a run: facts about the command, in addition to the plan made from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class RunRequest(NamedTuple):
    """config: plain and resolved. algo, env: the chosen names. argv, overrides: as typed.

    tuned: settings that applied by themselves, by dotted key, and the name they have. choices: the option of each
    group. record_fields: what the run.json of each member says beside the rest, or one for all members. begun: called
    with the directories once the run can be resumed from them. trials: of a search, one a member where members are
    different trials; else the configuration's trial is that of all members together. begins: the words of a command
    that begins such a run anew; empty where no command alone does.
    """

    config: dict[str, Any]
    algo: str
    env: str
    argv: Sequence[str]
    overrides: Sequence[str]
    tuned_name: str | None = None
    tuned: Mapping[str, Any] = {}
    choices: Mapping[str, Any] = {}
    record_fields: Sequence[Mapping[str, Any]] = ({},)
    begun: Callable[[Sequence[Path]], None] = lambda _: None
    trials: Sequence[Mapping[str, Any] | None] = ()
    begins: Sequence[str] = ()
