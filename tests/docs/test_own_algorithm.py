"""What README.md shows is true: its own algorithm and network run as printed, and so do its commands and its Python."""

import importlib
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, leaves, same_bits, without_xla

from rlresearch import tree
from rlresearch.cli import main as entry
from rlresearch.config.compose import compose
from rlresearch.training.experiment import plan

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
# By the path in the first line.
FILES = {match[1]: text for _, text in BLOCKS if (match := re.match(r"# (my_lab/\S+)\n", text))}
COMMANDS = re.findall(r"^python -m rlresearch .*$", README, re.MULTILINE)
OTHERS = re.findall(r"^python -m rlresearch\.\w+ .*$", README, re.MULTILINE)
ANSWERS = re.findall(r"^\$ (python -m rlresearch .*)\n(rlresearch: .*)$", README, re.MULTILINE)
(OWN,) = [command for command in COMMANDS if "--config-dir" in command]
RUNNERS = ["device", "host", "population"]
ITERATIONS = 40


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The folder that the README's files make."""
    folder = tmp_path_factory.mktemp("lab")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder / "my_lab")  # as the command line does with --config-dir
        yield folder
    sys.modules.pop("mine", None)


def own_plan(lab, *overrides):
    return plan(compose(["algo=mine", "network=wide", "env.num_envs=2", *overrides], str(lab / "my_lab")).config)


@pytest.fixture(scope="module", params=RUNNERS)
def trained(request, lab):
    """(weights before, runner after some updates) of the README's algorithm."""
    seeds = ["runner.seeds=2", "runner.values={algo.sigma:[0.1,0.2]}"] if request.param == "population" else []
    made = own_plan(lab, "+algo.learning_starts=32", "+algo.batch_size=16", f"runner={request.param}", *seeds)
    with without_xla():
        runner = made.runner.start(made.trainer, made.task, 0)
        before = runner.state().algo[0]
        runner.advance(ITERATIONS, True)
        yield before, runner
    runner.close()


def test_the_section_is_short():
    code = [line for text in FILES.values() for line in text.splitlines() if line.strip()]
    assert len(FILES) == 3 and len(code) <= 60


def test_it_learns_under_every_runner(trained):
    before, runner = trained
    for row in runner.rows():
        assert np.isfinite(row["loss/critic"])
    after = runner.state().algo[0]
    assert all(np.isfinite(leaf).all() for leaf in leaves(after)) and not same_bits(before, after)
    actions = runner.policy(np.zeros((len(runner.members), 3, 3), np.float32))
    assert actions.shape == (len(runner.members), 3, 1) and np.abs(actions).max() <= 1.0


def test_members_are_what_they_would_be_alone_until_they_learn(lab):
    alone = own_plan(lab, "algo.sigma=0.2", "seed=1", "runner=device")
    both = own_plan(lab, "runner=population", "runner.seeds=2", "runner.values={algo.sigma:[0.1,0.2]}")
    with without_xla():
        one, two = (made.runner.start(made.trainer, made.task, seed) for made, seed in ((alone, 1), (both, 0)))
        assert same_bits(one.state().algo, tree.member(two.state().algo, 1))


def test_its_command_runs_as_printed(lab):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, *shlex.split(OWN)[1:], "total_steps=1100", "eval=final", "eval.final_episodes=1"]
    done = subprocess.run(
        command, cwd=lab, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "mine on pendulum" in done.stdout and "finished" in done.stdout
    assert list((lab / "runs").glob("*/*_mine_pendulum_s0_*/evaluations.jsonl"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_readme_could_run(command, lab, monkeypatch):
    monkeypatch.chdir(lab)
    monkeypatch.setattr(entry.resume, "check_source", lambda made: None)  # there is no run of the name RUN
    entry.check(entry._arguments(shlex.split(command, comments=True)[3:]))


@pytest.mark.parametrize("command", OTHERS)
def test_every_other_command_of_the_readme_is_understood(command, capsys):
    """There is no run of the name RUN: that is what is found, and nothing else."""
    module = importlib.import_module(command.split()[2])
    assert module.main(shlex.split(command, comments=True)[3:]) == 2
    assert capsys.readouterr().err.startswith("rlresearch: RUN=RUN: must be a run directory")


@pytest.mark.parametrize("command, answer", ANSWERS)
def test_wrong_commands_are_answered_as_the_readme_says(command, answer, capsys):
    assert entry.main(shlex.split(command, comments=True)[3:]) == 2
    assert capsys.readouterr().err == f"{answer}\n"


def test_the_python_of_the_readme_is_the_default_run():
    """Its last three lines train for 20,000 steps: the slow test runs those too."""
    names = _run(_python().partition("runner = ")[0])
    made = plan(compose([]).config)
    assert names["algo"] == made.trainer.algo
    assert names["task"].physics == made.task.physics and names["task"].id == made.task.id
    assert f"Uniform({made.trainer.buffer.capacity:_})" in _python()
    assert f"total_steps={made.settings.total_steps:_}" in _python()


@pytest.mark.slow
def test_the_python_of_the_readme_learns(capsys):
    _run(_python())
    assert float(capsys.readouterr().out) > -250.0


def _python() -> str:
    (text,) = [text for language, text in BLOCKS if language == "python" and text not in FILES.values()]
    return text


def _run(text: str) -> dict:
    names = {"__name__": "readme"}
    exec(compile(text, "README.md", "exec"), names)
    return names
