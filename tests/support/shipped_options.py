"""Every shipped option in a command that can run, with the declared type of each of its settings.

`fits` is an oracle of its own: it says whether a value is of a declared type and in its range, without the code that
checks configurations.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping

import annotated_types as at

from rlresearch.config.compose import CONFIG_FOLDER, compose
from rlresearch.config.instantiate import resolve
from rlresearch.envs.task import Task
from rlresearch.training.optuna_trial import Trial
from rlresearch.training.settings import CheckpointSettings, EvalSettings, LoggerSettings, Settings

OPTIONS = sorted(str(path.relative_to(CONFIG_FOLDER).with_suffix("")) for path in CONFIG_FOLDER.glob("*/*.yaml"))
CONTINUOUS, DISCRETE = ("pendulum", "mountain_car_continuous"), ("cartpole", "mountain_car", "acrobot")
TABLES = ("frozen_lake", "cliff_walking", "taxi")
BANDITS = ("chain_bandit", "matrix_bandit")
TABULAR = ("q_learning", "sarsa", "expected_sarsa", "double_q_learning")
HOMES = {
    **dict.fromkeys(("ddpg", "td3", "sac"), CONTINUOUS),
    **dict.fromkeys(("ppo", "a2c"), (*CONTINUOUS, *DISCRETE, *TABLES)),
    **dict.fromkeys(("dqn", "c51", "qr_dqn", "discrete_sac", "online_q"), (*DISCRETE, *TABLES, *BANDITS)),
    **dict.fromkeys(TABULAR, TABLES),
}
NEEDED = {"c51": ["algo.v_min=-10", "algo.v_max=10"]}
SETTINGS = {"env": Task, "eval": EvalSettings, "logger": LoggerSettings, "checkpoint": CheckpointSettings}
SETTINGS |= {"trial": Trial}
GROUPS = sorted({option.split("/")[0] for option in OPTIONS})


def option_command(option: str) -> list[str]:
    """A command that can run, in which `option` (group/name) is chosen."""
    group, name = option.split("/")
    if group == "algo":
        return [f"algo={name}", f"env={HOMES[name][0]}", *NEEDED.get(name, []), "tuned=none"]
    if group == "env":
        if name == "gym":
            return ["env=gym", "env.id=MountainCarContinuous-v0"]
        algo = next((algo for algo, homes in HOMES.items() if name in homes), "dqn")
        return [f"algo={algo}", f"env={name}", "tuned=none"]
    if group == "tuned" and name != "none":
        algo = max((algo for algo in HOMES if name.startswith(f"{algo}_")), key=len)
        return [f"algo={algo}", f"env={name.removeprefix(f'{algo}_')}"]
    if group == "schedule":
        return [f"schedule@optimizer.schedule={name}"]
    fitting = {
        **{"network/dueling": "dqn", "network/noisy": "dqn", "network/q": "dqn", "network/none": "sarsa"},
        **{"network/policy_value": "ppo", "network/stochastic_actor_critic": "sac", "network/actor_critic": "ddpg"},
        **{"buffer/latest": "sarsa", "buffer/rollout": "ppo", "noise/epsilon_greedy": "dqn", "noise/greedy": "dqn"},
        **{"noise/boltzmann": "dqn", "noise/none": "ppo", "optimizer/rmsprop": "a2c"},
    }
    learner = fitting.get(option, "ddpg")
    if group == "experiment":
        return [option.replace("/", "=")]
    if group == "tuned":
        return ["tuned=none"]
    return [f"algo={learner}", f"env={HOMES[learner][0]}", "tuned=none", option.replace("/", "=")]


def fields_of(config: Mapping) -> dict[str, typing.Any]:
    """The declared type of every setting in a composed configuration, by dotted key."""
    found = {name: hint for name, hint in _hints(Settings).items() if name in config}
    for name, node in config.items():
        if isinstance(node, Mapping):
            found |= _below(name, node, SETTINGS.get(name))
    return found


def _below(path: str, node: Mapping, cls: type | None) -> dict[str, typing.Any]:
    cls = resolve(node["_target_"], path) if "_target_" in node else cls
    hints, found = _hints(cls) if cls else {}, {}
    for name, value in node.items():
        if isinstance(value, Mapping):
            found |= _below(f"{path}.{name}", value, _dataclass(hints.get(name)))
        elif name != "_target_":
            found[f"{path}.{name}"] = hints[name]
    return found


def _dataclass(hint: typing.Any) -> type | None:
    """The one that a declared type names, `| None` or not."""
    return next((each for each in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(each)), None)


def fits(value: typing.Any, hint: typing.Any) -> bool:
    """Whether a plain value is of a declared type and in its range."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(fits(value, each) for each in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Annotated:
        plain, *limits = typing.get_args(hint)
        return fits(value, plain) and all(map(lambda limit: _within(value, limit), limits))
    if typing.get_origin(hint) is typing.Literal:
        return value in typing.get_args(hint) and not isinstance(value, bool)
    if typing.get_origin(hint) is tuple:
        return isinstance(value, list) and all(fits(each, typing.get_args(hint)[0]) for each in value)
    if hint is type(None):
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is str:
        return isinstance(value, str)
    return isinstance(value, dict) and typing.get_origin(hint) is not None  # a mapping; a component is made otherwise


def _within(value: typing.Any, limit: typing.Any) -> bool:
    bounds = ("ge", lambda a, b: a >= b), ("gt", lambda a, b: a > b), ("le", lambda a, b: a <= b)
    bounds += (("lt", lambda a, b: a < b),)
    return all(
        holds(value, bound) for name, holds in bounds if (bound := getattr(limit, name, None)) is not None
    ) and not isinstance(limit, at.Predicate)


VALUES = {  # as typed, and what that is
    **{"-1": -1, "0": 0, "1": 1, "2": 2, "3.5": 3.5, "-0.5": -0.5, "1.0": 1.0, "1e400": math.inf, "nan": math.nan},
    **{"-inf": -math.inf, "true": True, "FALSE": False, "null": None, "word": "word", "yes": "yes", "''": ""},
    **{"'1'": "1", "[]": [], "[1,2]": [1, 2], "[-1]": [-1], "[x]": ["x"], "[[1]]": [[1]], "{}": {}, "{a:1}": {"a": 1}},
    **{"1e3": 1e3, "1e-320": 1e-320, str(2**63): 2**63, str(10**40): 10**40, "-0.0": -0.0, "[nan]": [math.nan]},
    **{"[null]": [None], "'nan'": "nan", "0x10": "0x10", "1_0": 10, "[true]": [True], "[1,[2]]": [1, [2]]},
}


@dataclasses.dataclass(frozen=True)
class Base:
    """A command that can run, and the types of its settings."""

    option: str
    argv: list[str]
    config: Mapping
    types: Mapping[str, typing.Any]
    made: typing.ClassVar[dict[str, Base]] = {}

    @classmethod
    def of(cls, option: str) -> Base:
        if option not in cls.made:
            config = compose(option_command(option)).config
            cls.made[option] = cls(option, option_command(option), config, fields_of(config))
        return cls.made[option]

    def value(self, key: str) -> typing.Any:
        node = self.config
        for name in key.split("."):
            node = node[name]
        return node

    def names(self, path: str) -> set[str]:
        """The fields that a component at `path` could have been given."""
        node, cls = self.config, None
        for name in path.split(".") if path else []:
            hint = SETTINGS.get(name) if node is self.config else _hints(cls).get(name) if cls else None
            node, cls = node[name], _dataclass(hint)
            cls = resolve(node["_target_"], path) if "_target_" in node else cls
        own = {each.name for each in dataclasses.fields(cls or Settings)} if cls or not path else set()
        return own | set(node) | (set(GROUPS) | {"hydra"} if not path else set())


def _hints(cls: type) -> dict[str, typing.Any]:
    return typing.get_type_hints(cls, include_extras=True)
