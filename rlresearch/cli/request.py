"""What a command leaves in run.json: the choices, the words typed, the tuned settings that applied by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlresearch.config.compose import tuned_values
from rlresearch.training.request import RunRequest


def make_request(
    config: dict[str, Any],
    choices: Mapping[str, Any],
    overrides: Sequence[str],
    argv: Sequence[str],
    config_dir: str | None,
) -> RunRequest:
    """What run.json says of a command. overrides: as typed, without Hydra's own; argv: the whole command line."""
    env, tuned = choices["env"], choices.get("tuned")
    return RunRequest(
        config=config,
        algo=choices["algo"],
        env=config["env"]["id"] if env == "gym" else env,
        argv=["python", "-m", "rlresearch", *argv],
        overrides=list(overrides),
        tuned_name=tuned,
        tuned=tuned_values(tuned, config, config_dir),
        begins=[
            "python",
            "-m",
            "rlresearch",
            *([] if config_dir is None else [f"--config-dir={config_dir}"]),
            *overrides,
        ],
        choices={name: option for name, option in choices.items() if not name.startswith("hydra/")},
    )
