"""What a checkpoint says of itself: manifest.json, in which no field is unknown and each has its type."""

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
    """A `RowFile`."""

    name: _RowsName
    begin: _Count
    end: _Count
    size: _Count
    digest: _Digest


class SavedRing(_Strict):
    """A `Ring`, and where its rows are."""

    capacity: Annotated[int, at.Gt(0)]
    added: _Count
    files: list[SavedRows]


class CheckpointMetadata(_Strict):
    """What is known of a checkpoint beside its arrays.

    iteration: of the loop, each of `num_envs` transitions a member; step: transitions of each member. members: the
    runs' seeds. position: where the training loop stood. logs: for each member the sizes in bytes of its files.
    times: seconds so far. score: mean return, where the policy was evaluated at this very step. serial: counts the
    planned ones, from 1; None for one out of turn. exact: false where the environment cannot be brought back to this
    place, so that the run cannot go on from here. config: a digest of the settings that must stay. content: a digest of
    the state, which restoring compares; "" in version 0.1.
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
    """What manifest.json says."""

    digest: str
    schema_version: int
    saved_at: str
    packages: dict[str, str | None]
    about: CheckpointMetadata
    state_size: _Count
    state_digest: _Digest
    tensors: dict[str, tuple[str, list[_Count]]]
    rings: dict[str, SavedRing]
