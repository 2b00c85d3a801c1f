"""The settings of a run that belong to no component: `conf/config.yaml`, `conf/eval`, `conf/logger` and others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import annotated_types as at

from rlresearch.loggers.console import ConsoleMode
from rlresearch.loggers.wandb.settings import WandbSettings


@dataclass(frozen=True)
class Settings:
    """The keys at the top of the configuration; `conf/config.yaml` explains each."""

    total_steps: Annotated[int, at.Gt(0)] = 20_000
    seed: Annotated[int, at.Interval(ge=0, lt=2**63)] = 0
    device: Literal["auto", "cpu", "gpu"] = "auto"
    deterministic: bool = False
    threads: Annotated[int, at.Gt(0)] | None = None
    compile_cache: bool = True
    runs_dir: str = "runs"
    init_from: str | None = None
    resume: str | None = None
    packages: tuple[str, ...] = ()
    trial: Mapping[str, Any] | None = None  # the fields of `optuna_trial.Trial`


@dataclass(frozen=True)
class EvalSettings:
    """every_steps: transitions between evaluations, None for only one at the end. episodes: of each evaluation.
    final_episodes: of the last evaluation. video_every: N for a video of the first episode of every Nth evaluation and
    of the last one, None for no videos. workers: the most processes that step environments at a time, None for one per
    core with Gymnasium's own environments, else one. copies: the most environments at a time, None for as many as share
    a call's cost. max_episode_steps: the steps after which an episode ends, None for the environment's own limit alone.
    """

    every_steps: Annotated[int, at.Gt(0)] | None = 5_000
    episodes: Annotated[int, at.Gt(0)] = 10
    final_episodes: Annotated[int, at.Gt(0)] = 100
    video_every: Annotated[int, at.Gt(0)] | None = None
    workers: Annotated[int, at.Gt(0)] | None = None
    copies: Annotated[int, at.Gt(0)] | None = None
    max_episode_steps: Annotated[int, at.Gt(0)] | None = None

    def shows(self, step: int, final: bool) -> bool:
        """Returns whether the evaluation at a step gets a video."""
        if self.video_every is None:
            return False
        return final or bool(self.every_steps and (step // self.every_steps) % self.video_every == 0)


@dataclass(frozen=True)
class LoggerSettings:
    """every_steps: transitions between metrics rows, None for only one at the end. console: how the terminal shows
    progress. tensorboard: whether to write event files too. wandb: the settings of W&B, None to send nothing.
    """

    every_steps: Annotated[int, at.Gt(0)] | None = 1_000
    console: ConsoleMode = "auto"
    tensorboard: bool = False
    wandb: WandbSettings | None = None


@dataclass(frozen=True)
class CheckpointSettings:
    """every_steps: transitions between planned checkpoints, None for never. every_minutes: the most minutes between
    two checkpoints, None for no limit. keep_last: how many of the newest stay, 0 for no checkpoints at all. keep_best:
    whether the checkpoint of the best evaluation stays too. keep_every: N to keep every Nth planned checkpoint too.
    if_it_fails: whether the run continues or stops when a checkpoint cannot be saved. episodes: how a resumed run gets
    back into episodes of Gymnasium environments: `replay` repeats their actions, `fresh` begins others.
    """

    every_steps: Annotated[int, at.Gt(0)] | None = None
    every_minutes: Annotated[float, at.Gt(0)] | None = 5.0
    keep_last: Annotated[int, at.Ge(0)] = 3
    keep_best: bool = True
    keep_every: Annotated[int, at.Gt(0)] | None = None
    if_it_fails: Literal["continue", "stop"] = "continue"
    episodes: Literal["replay", "fresh"] = "replay"
