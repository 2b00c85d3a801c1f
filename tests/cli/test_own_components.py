"""Components of one's own: fields are settings, TensorFlow loads no earlier, and one rule says who trusts them."""

import json
import subprocess
import sys

import pytest

from rlresearch.cli import evaluate, export, rerun
from rlresearch.cli import main as entry
from rlresearch.config.compose import compose
from rlresearch.errors import ConfigError
from rlresearch.review.__main__ import main as review
from rlresearch.training.experiment import plan

SOURCE = '''
from dataclasses import dataclass
from typing import Callable, NamedTuple, Optional

import tensorflow as tf

from rlresearch.algos.tabular import Tabular


class Seen(NamedTuple):
    obs: tf.Tensor
    action: tf.Tensor | None
    hidden: Optional[tf.Variable]
    parts: dict[str, tf.Tensor]
    data: tf.data.Dataset
    rows: tuple[tf.Tensor, ...] = ()


@dataclass(frozen=True)
class Mine(Tabular):
    """A table, and a setting of its own."""

    bonus: float = 0.0
    METRICS = {name: f"mine: {line}" for name, line in Tabular.METRICS.items()}

    def look(self, seen: Seen, more: tf.Tensor = None) -> Callable[[tf.Tensor], tf.Tensor]:
        return seen
'''
OPTION = """# @package _global_
defaults:
  - override /network: none
  - override /buffer: latest
  - override /noise: epsilon_greedy
algo:
  _target_: own_tabular.Mine
"""
SMALL = ["env=frozen_lake", "total_steps=24", "eval=final", "eval.final_episodes=1", "logger.console=none"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    (folder / "own_tabular.py").write_text(SOURCE)
    (folder / "algo").mkdir()
    (folder / "algo" / "mine.yaml").write_text(OPTION)
    path = list(sys.path)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path[:] = path
    sys.modules.pop("own_tabular", None)


@pytest.fixture(scope="module")
def run(lab, tmp_path_factory):
    """A run of it that has finished."""
    runs = tmp_path_factory.mktemp("runs")
    assert entry.main([f"--config-dir={lab}", "algo=mine", "algo.bonus=0.5", *SMALL, f"runs_dir='{runs}'"]) == 0
    (path,) = runs.glob("*-*/*")
    return path


def test_fields_are_settings_whether_a_file_lists_them_or_not(lab):
    words = ["algo=mine", "env=frozen_lake", "algo.bonus=0.5", "algo.alpha=0.25", "total_steps=9"]
    composed = compose(words, str(lab))
    assert composed.config["algo"] == {"_target_": "own_tabular.Mine", "bonus": 0.5, "alpha": 0.25}
    assert composed.overrides == words  # as they were typed, for run.json
    algo = plan(composed.config).trainer.algo
    assert (algo.bonus, algo.alpha) == (0.5, 0.25)


@pytest.mark.parametrize("swept", ["algo.bonus=0.1,0.2 algo.alpha=0.3", "algo.bonus=0.1 algo.alpha=0.3,0.4"])
def test_fields_are_settings_in_a_sweep(swept, lab, capsys):
    words = ["-m", f"--config-dir={lab}", "algo=mine", "env=frozen_lake", *swept.split()]
    assert entry.main([*words, "hydra.sweeper.plan_only=true"]) == 0
    assert capsys.readouterr().out.startswith("2 jobs")


def test_fields_are_settings_where_the_configuration_is_shown(lab, capsys):
    assert entry.main([f"--config-dir={lab}", "algo=mine", "algo.bonus=0.5", "--cfg", "job", "--package=algo"]) == 0
    assert "bonus: 0.5" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, told",
    [
        (["algo.bonsu=1"], "algo.bonsu=1: there is no such setting in algo=mine; did you mean 'algo.bonus'? Allowed: "),
        (
            ["algo.bonus=1", "algo.alhpa=1"],
            "algo.alhpa=1: there is no such setting in algo=mine; did you mean 'algo.alpha'",
        ),
        (["algo.spec=1"], "algo.spec=1: there is no such setting in algo=mine"),
        (["algo.bonus=much"], "algo.bonus=much: must be a number"),
    ],
)
def test_a_setting_that_is_no_field_is_refused_with_the_nearest(words, told, lab):
    with pytest.raises(ConfigError) as refused:
        plan(compose(["algo=mine", "env=frozen_lake", *words], str(lab)).config)
    assert str(refused.value).startswith(told)


def test_a_typo_beside_annotations_of_ones_own_loads_no_tensorflow(lab):
    """A module that does not begin with `from __future__ import annotations`, and names tf.Tensor in them."""
    words = [f"--config-dir={lab}", "algo=mine", "env=frozen_lake", "algo.bonus=0.5", "algo.alhpa=1"]
    program = f"""
import sys
from rlresearch.cli.main import main
assert main({words!r}) == 2
assert "own_tabular" in sys.modules and "tensorflow.python" not in sys.modules
import tensorflow, typing
seen = sys.modules["own_tabular"].Seen
stand_in = seen.__annotations__["obs"]
assert isinstance(tensorflow.constant(1), stand_in) and not isinstance(1, stand_in)
class Own(stand_in): pass
assert issubclass(Own, tensorflow.Tensor)
assert typing.get_args(seen.__annotations__["action"]) == (stand_in, type(None))
assert seen.__annotations__["data"].range(3).cardinality() == 3
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "algo.alhpa=1: there is no such setting" in done.stderr


def test_what_is_no_annotation_is_tensorflows_own():
    program = "import rlresearch, tensorflow as tf\nkind = tf.Tensor\nassert isinstance(kind, type), kind\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


# Who trusts them.


def asked(command, run, tmp_path, *words):
    """The exit code of a command that builds the run's components."""
    commands = {
        "resume": lambda: entry.main([f"resume='{run}'", "total_steps=48", *words]),
        "evaluate": lambda: evaluate.main([str(run), "--episodes=1", *words]),
        "export": lambda: export.main([str(run), str(tmp_path / "policy"), *words]),
        "rerun": lambda: rerun.main([str(run), f"--runs-dir={tmp_path}", *words]),
    }
    return commands[command]()


COMMANDS = ["evaluate", "export", "rerun", "resume"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_stored_runs_components_are_refused_until_their_folder_is_named(command, run, lab, tmp_path, capsys):
    assert asked(command, run, tmp_path) == 2
    assert "must be inside rlresearch" in capsys.readouterr().err
    assert asked(command, run, tmp_path, f"--config-dir={lab}") == 0
    capsys.readouterr()


@pytest.mark.parametrize("flag", ["--packages", "--package"])
def test_or_their_package(flag, lab, run, tmp_path):
    del lab  # it is on Python's path
    assert asked("evaluate", run, tmp_path, flag, "own_tabular") == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_is_not_there_is_told(command, run, tmp_path, capsys):
    assert asked(command, run, tmp_path, "--config-dir=nowhere") == 2
    assert "--config-dir=nowhere: must be a folder that exists" in capsys.readouterr().err


# What their metrics mean.


def test_review_knows_the_metrics_of_an_algorithm_of_ones_own(run, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    own = json.loads((run / "run.json").read_text())["metrics"]
    assert own and all(line.startswith("mine: ") for line in own.values())
    where = ["--runs-dir", str(run.parents[1])]
    assert review(["metrics", "mine", "--format", "json", *where]) == 0
    told = {row["metric"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(own) <= set(told)
    for name, line in own.items():
        assert line == f"{told[name]['meaning']}, in {told[name]['unit']}"
    assert review(["ls", "--varying", *where]) == 0 and "mine:" not in capsys.readouterr().out
    assert review(["metrics", "yours", *where]) == 2
    assert "there is no such algorithm, and no run of it in" in capsys.readouterr().err
