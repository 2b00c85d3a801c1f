"""The fields of manifest.json, the description of a checkpoint. Unknown fields and wrong types are errors."""

from __future__ import annotations

from typing import Annotated

import annotated_types as at
import pydantic

_Count = Annotated[int, at.Ge(0)]
_Digest = Annotated[str, pydantic.StringConstraints(pattern=r"^[0-9a-f]{32}$")]
_RowsName = Annotated[str, pydantic.StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,60}\.rows$")]


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class SavedRows(_Strict):
    """A `RowFile` as JSON."""

    name: _RowsName
    begin: _Count
    end: _Count
    size: _Count
    digest: _Digest


class SavedRing(_Strict):
    """A `Ring` as JSON: its capacity, the number of rows ever added, and the files with its rows."""

    capacity: Annotated[int, at.Gt(0)]
    added: _Count
    files: list[SavedRows]


class CheckpointMetadata(_Strict):
    """Everything about a checkpoint except its arrays.

    step: transitions of each member. iteration: iterations of the loop; each has `num_envs` transitions per member.
    members: the seeds of the runs. position: the counters of the training loop. logs: for each member, the sizes of
    its files in bytes. times: seconds so far. score: the mean return, where the policy was evaluated at this step.
    serial: the number of a planned checkpoint, from 1; None for an extra one, for example after a signal.
    exact: false where the environment cannot be restored to this step, so that the run cannot resume from here.
    config: a digest of the settings that must not change. content: a digest of the state, which restoring compares;
    "" in version 0.1.
    """

    step: _Count
    iteration: _Count
    members: list[int]
    position: dict[str, int | bool]
    logs: list[dict[str, int]]
    times: dict[str, float]
    score: float | None = None
    serial: int | None = None
    exact: bool = True
    config: str = ""
    content: str = ""


class Manifest(_Strict):
    """All fields of manifest.json."""

    digest: str
    schema_version: int
    saved_at: str
    packages: dict[str, str | None]
    about: CheckpointMetadata
    state_size: _Count
    state_digest: _Digest
    tensors: dict[str, tuple[str, list[_Count]]]
    rings: dict[str, SavedRing]
