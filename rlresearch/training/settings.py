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
    """The keys at the top of the configuration; `conf/config.yaml` says what each means."""

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
    trial: Mapping[str, Any] | None = None  # of the fields of `trial.Trial`


@dataclass(frozen=True)
class EvalSettings:
    """every_steps: transitions between evaluations, None for only at the end; episodes: of each;
    final_episodes: of the last one; video_every: of how many evaluations one gets a video of its first episode, as the
    last one does; None for no videos; workers: the most processes that step environments side by side, None for one a
    core where those are Gymnasium's own, else one. copies: the most environments that there are for it at once, None
    for as many as share a call's cost; max_episode_steps: after which an episode of an evaluation is left, None for the
    environment's own time limit alone.
    """

    every_steps: Annotated[int, at.Gt(0)] | None = 5_000
    episodes: Annotated[int, at.Gt(0)] = 10
    final_episodes: Annotated[int, at.Gt(0)] = 100
    video_every: Annotated[int, at.Gt(0)] | None = None
    workers: Annotated[int, at.Gt(0)] | None = None
    copies: Annotated[int, at.Gt(0)] | None = None
    max_episode_steps: Annotated[int, at.Gt(0)] | None = None

    def shows(self, step: int, final: bool) -> bool:
        """Whether the evaluation at a step gets a video."""
        if self.video_every is None:
            return False
        return final or bool(self.every_steps and (step // self.every_steps) % self.video_every == 0)


@dataclass(frozen=True)
class LoggerSettings:
    """every_steps: transitions between metrics rows, None for one at the end; console: how the terminal shows progress;
    tensorboard: whether event files are written too; wandb: what W&B gets, None for nothing.
    """

    every_steps: Annotated[int, at.Gt(0)] | None = 1_000
    console: ConsoleMode = "auto"
    tensorboard: bool = False
    wandb: WandbSettings | None = None


@dataclass(frozen=True)
class CheckpointSettings:
    """every_steps: transitions between planned checkpoints; every_minutes: between those and others; None for never.
    keep_last: how many of the newest stay, 0 for no checkpoints at all; keep_best: also that of the best evaluation;
    keep_every: also every so manieth planned one. if_it_fails: whether a run goes on that could not save one.
    episodes: how a resumed run gets back into the episodes of Gymnasium's environments: by `replay` of their actions,
    or not at all, with `fresh` ones in their place.
    """

    every_steps: Annotated[int, at.Gt(0)] | None = None
    every_minutes: Annotated[float, at.Gt(0)] | None = 5.0
    keep_last: Annotated[int, at.Ge(0)] = 3
    keep_best: bool = True
    keep_every: Annotated[int, at.Gt(0)] | None = None
    if_it_fails: Literal["continue", "stop"] = "continue"
    episodes: Literal["replay", "fresh"] = "replay"
