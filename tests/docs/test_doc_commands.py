"""Every command in README.md and docs is one that works: bash reads it, and the program that it names accepts it.

Nothing trains here, but the commands that are marked slow. What a shell does to brackets and braces is seen, since the
words are those that bash hands over.
"""

import importlib
import os
import re
import subprocess
import sys
import tomllib

import pytest
from support.doc_blocks import PAGES, ROOT, blocks, console_lines, own_files, shell_words

from rlresearch.cli import main as entry
from rlresearch.cli.arguments import parse_arguments
from rlresearch.config.changes import parse_changes
from rlresearch.config.compose import compose
from rlresearch.config.overrides import representative_job, sweep_jobs
from rlresearch.review import cli as review
from rlresearch.sweeps.launchers.basic import create_launcher
from rlresearch.training.experiment import plan
from rlresearch.training.resume import SAFE_GROUPS

COMMANDS = [(block.name, block.page, block.text) for block in blocks("bash")]
COMMANDS += [
    (f"{block.name} {command}", block.page, command)
    for block in blocks("console")
    for command, _ in console_lines(block.text)
]
ANSWERS = [
    (command, after)
    for block in blocks("console")
    for command, after in console_lines(block.text)
    if after.startswith("rlresearch: ")
]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
STORED = ("rlresearch.evaluate", "rlresearch.export", "rlresearch.rerun")


@pytest.fixture
def lab(request, tmp_path, monkeypatch):
    """A folder to be in, with the files that the page of the command shows in it."""
    for name, text in own_files(request.node.callspec.params["page"]).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "my_lab").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path)
    own = {path.stem for path in (tmp_path / "my_lab").glob("*.py")}
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in own:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name, page, script", COMMANDS, ids=[name for name, *_ in COMMANDS])
def test_every_command_is_one_that_works(name, page, script, lab, monkeypatch, capsys):
    monkeypatch.setattr(entry.resume, "check_source", lambda made: None)  # there is no run of the name RUN
    wrong = any(script == command for command, _ in ANSWERS)
    ran = shell_words(script, lab)
    assert ran or script.startswith("source "), "bash ran nothing"
    for words in ran:
        program, arguments = words[0], words[1:]
        if program in ("python", "python3") and arguments[:1] == ["-m"]:
            program, arguments = arguments[1], arguments[2:]
        elif program in ("python", "python3"):
            program, arguments = "script", arguments
        if not wrong:
            accepted(program, arguments, capsys)


def accepted(program: str, arguments: list[str], capsys) -> None:
    """Fails where a program would refuse its arguments."""
    if program == "rlresearch":
        train(arguments)
    elif program in STORED:  # there is no run of the name RUN: that is what is found, and nothing else
        assert importlib.import_module(program).main(arguments) == 2
        assert capsys.readouterr().err.startswith("rlresearch: RUN=RUN: must be a run directory")
    elif program in ("rlresearch-review", "rlresearch.review"):
        assert arguments[0] in review.COMMANDS
        review.parse(arguments[0], arguments[1:])
    elif program == "script":
        text = (ROOT / arguments[0]).read_text()
        for flag in (word for word in arguments[1:] if word.startswith("--")):
            assert f'"{flag}"' in text or flag == "--help", f"{arguments[0]} has no {flag}"
    elif program == "pytest":
        for word in arguments:
            assert not word.startswith("tests/") or (ROOT / word).is_file(), word
    elif program == "pip":
        assert arguments[0] == "install"
        for extra in re.findall(r"\.\[([\w,]+)\]", " ".join(arguments)):
            assert set(extra.split(",")) <= set(EXTRAS), extra
    elif program == "mkdocs":
        assert (ROOT / arguments[arguments.index("-f") + 1]).is_file()
    else:
        assert program == "venv", f"nobody checks {program}"


def train(arguments: list[str]) -> None:
    """Checks a command as it is checked before it runs; of a sweep also its first job and its launcher."""
    args = parse_arguments(sorted(arguments, key=lambda word: word != "-m"))
    if args.config_dir is not None:
        sys.path.insert(0, os.path.abspath(args.config_dir))
    if args.hydra_help or args.shell_completion:
        return
    if args.mode == "resume":
        for overrides in sweep_jobs(args.overrides, args.config_dir) if args.multirun else [args.overrides]:
            parse_changes(overrides, args.config_dir, SAFE_GROUPS)
        return
    overrides = representative_job(args.overrides, args.config_dir) if args.multirun else args.overrides
    composed = compose(overrides, args.config_dir)
    if args.mode != "show":
        plan(composed.config)
    if args.multirun:
        launcher = next(
            (each.partition("=")[2] for each in args.overrides if each.startswith("hydra/launcher=")), "basic"
        )
        settings = dict(
            each.removeprefix("hydra.launcher.").split("=") for each in args.overrides if "hydra.launcher." in each
        )
        kind = create_launcher(launcher, {})
        assert settings.keys() <= {*vars(kind)}, settings


@pytest.mark.parametrize("command, answer", ANSWERS, ids=[command for command, _ in ANSWERS])
def test_wrong_commands_are_answered_as_the_pages_say(command, answer, tmp_path, capsys):
    ((_, _, _, *arguments),) = shell_words(command, tmp_path)
    assert entry.main(arguments) == 2
    assert capsys.readouterr().err == f"{answer}\n"


@pytest.mark.parametrize("page", [page.relative_to(ROOT).as_posix() for page in PAGES])
def test_commands_in_running_text_name_what_there_is(page):
    """`python scripts/x.py` and `pip install '.[extra]'` in a sentence or a table."""
    text = (ROOT / page).read_text()
    for script in re.findall(r"`python (scripts/\S+\.py)", text):
        assert (ROOT / script).is_file(), script
    for extra in re.findall(r"\.\[([\w,]+)\]", text):
        assert set(extra.split(",")) <= set(EXTRAS), extra


@pytest.mark.slow
@pytest.mark.parametrize("page", ["docs/extend/algorithm.md"])
def test_the_command_of_an_own_algorithm_trains(page, lab):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "rlresearch", "--config-dir", "my_lab", "algo=mine", "network=wide"]
    command += ["total_steps=1100", "eval=final", "eval.final_episodes=1"]
    done = subprocess.run(
        command, cwd=lab, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "mine on pendulum" in done.stdout and "finished" in done.stdout
    assert list((lab / "runs").glob("*/*_mine_pendulum_s0_*/evaluations.jsonl"))
