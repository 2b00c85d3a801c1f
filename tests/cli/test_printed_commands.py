"""Every command that is printed runs when it is pasted into a shell, and means the folder that it was printed for."""

import io
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from support.make_runs import make_run

from rlresearch import errors
from rlresearch.cli import main as entry
from rlresearch.cli.arguments import parse_arguments
from rlresearch.config.changes import parse_changes
from rlresearch.config.compose import compose
from rlresearch.config.hydra_session import open_hydra
from rlresearch.config.overrides import parse as parse_overrides
from rlresearch.errors import command_line, literal_text, override_text
from rlresearch.loggers.console import Display
from rlresearch.loggers.wandb.settings import sync_command
from rlresearch.review.__main__ import main as review
from rlresearch.review.cli import parse
from rlresearch.runtime.signals import Interrupted
from rlresearch.storage.provenance import provenance
from rlresearch.training.resume import SAFE_GROUPS, resume_command

NAMES = [
    *(
        "a=b",
        "a,b",
        "a'b",
        'a"b',
        "a'\"b",
        "a b",
        " a",
        "a  b",
        "(a)",
        "a(b",
        "[a]",
        "a]",
        "{a,c}",
        "{a",
        "$HOME",
        "${a}",
    ),
    *("${oc.env:HOME}", "a\\${b}", "a$", "\\", "a\\", "a\\'b", "a\\\\", "a\tb", "a\nb", "a\n", "~", "~a", "!a", "!!"),
    *(
        "it's !a",
        "*",
        "?",
        "[a-z]*",
        ".a",
        "-a",
        "--help",
        "é",
        "日本",
        "null",
        "1",
        "1e3",
        "0123",
        "true",
        "nan",
        "a:b",
    ),
    *(
        "#a",
        "a #b",
        "@a",
        "%a",
        "^a",
        "`id`",
        "$(id)",
        "a|b",
        "a;b",
        "a&b",
        "<a>",
        "\u2003a",
        "\x1b[1ma",
        "=a",
        "a\x7f",
    ),
]
ALL = [*NAMES, "", *(f"{a}{b}" for a in NAMES for b in ("\\", '"', "'", "${", "\n", " "))]
SHELLS = [
    pytest.param(name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"there is no {name} here"))
    for name in ("bash", "zsh")
]
PROGRAM = """#!/bin/sh
for word in "$@"; do printf '%s\\0' "$word"; done >> "$WORDS"
printf '\\1\\0' >> "$WORDS"
"""


@pytest.fixture
def pasted(tmp_path, monkeypatch):
    """Types lines into a shell, as a person would; returns the words that each program was started with."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("python", "rlresearch-review"):
        (programs / name).write_text(PROGRAM)
        (programs / name).chmod(0o755)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def paste(shell, lines):
        words = tmp_path / "words"
        words.unlink(missing_ok=True)
        flags = ["--norc", "--noprofile", "-i"] if shell == "bash" else ["-f", "-i"]
        own = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "WORDS": str(words), "HOME": str(tmp_path)}
        own |= {"HISTFILE": "", "TERM": "dumb"}
        typed = "".join(f"{line}\n" for line in lines)
        subprocess.run([shell, *flags], input=typed.encode(), env=own, cwd=here, capture_output=True, timeout=300)
        ran = words.read_bytes().decode().split("\1\0")[:-1]
        return [each.split("\0")[:-1] for each in ran]

    return paste


def resumed(ran):
    """For each command the run that it goes on with and its folder of components, as the command itself reads them."""
    assert all(words[:2] == ["-m", "rlresearch"] for words in ran)
    arguments = [parse_arguments(words[2:]) for words in ran]
    assert {each.mode for each in arguments} == {"resume"}
    changes = parse_changes([word for each in arguments for word in each.overrides], None, SAFE_GROUPS)
    assert {each.key for each in changes} == {"resume"}
    return [(each.value, own.config_dir) for each, own in zip(changes, arguments, strict=True)]


@pytest.mark.parametrize("shell", SHELLS)
def test_what_goes_on_with_a_run_means_that_run(shell, pasted):
    runs = [Path.cwd() / name / "run" for name in NAMES]
    ran = pasted(shell, [resume_command(run, None) for run in runs])
    assert [Path(run).absolute() for run, _ in resumed(ran)] == runs


@pytest.mark.parametrize("shell", SHELLS)
def test_a_folder_of_components_is_named_with_it(shell, pasted):
    folders = [Path.cwd() / name for name in NAMES]
    ran = pasted(shell, [resume_command(Path("run"), str(folder)) for folder in folders])
    assert [Path(folder).absolute() for _, folder in resumed(ran)] == folders


@pytest.mark.parametrize("shell", SHELLS)
def test_what_sends_rows_later_names_every_member(shell, pasted):
    runs = [Path.cwd() / name / "run" for name in NAMES]
    (words,) = pasted(shell, [sync_command(runs)])
    assert parse(words[0], words[1:]).runs == [str(run) for run in runs]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_command_that_review_shows_is_the_one_that_was_typed(shell, pasted, capsys, tmp_path):
    typed = ["python", "-m", "rlresearch", *(override_text("runs_dir", name) for name in NAMES), *NAMES]
    make_run(tmp_path / "runs", record={"command": provenance(typed, [])["command"]})
    assert review(["show", "latest", "--runs-dir", str(tmp_path / "runs"), "--no-cache"]) == 0
    command = capsys.readouterr().out.rpartition("\ncommand\n")[2].strip()
    assert pasted(shell, [command]) == [typed[1:]]


def test_text_in_an_override_is_the_text_that_hydra_composes():
    with open_hydra(None) as hydra:
        values = [
            each.value() for each in parse_overrides([override_text("a", name) for name in ALL], hydra.config_loader)
        ]
    assert [OmegaConf.create([value])[0] for value in values] == ALL
    assert [literal_text(value) for value in values] == ALL


def test_a_reference_in_an_override_is_no_text():
    assert literal_text("${a}") is None and literal_text("\\${a}${b}") is None
    assert literal_text("\\${a}") == "${a}" and literal_text("\\\\\\${a}") == "\\${a}"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_no_terminal_changes_a_command(encoding, monkeypatch):
    shown = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr("sys.stdout", shown)
    command = command_line(["python", *NAMES])
    Display("plain").message(command)
    assert shown.buffer.getvalue().decode(encoding) == f"{command}\n"
    assert errors.one_line(command[:300]) == command[:300]


def test_a_long_command_is_not_cut(capsys):
    again = resume_command(Path("runs") / ("long" * 60) / ("name" * 60), None)

    def fail():
        raise errors.RunError("1 of 2 jobs did not finish; " + "because " * 100, again=again)

    assert errors.exit_code_of(fail) == 1
    assert capsys.readouterr().err.endswith(f"; again: {again}\n")


@pytest.mark.parametrize("name", ["a=b", "a b", "(a)", "a'b", "${a}"])
def test_an_interrupted_run_says_how_to_go_on(name, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def stopped(arguments, argv):
        interrupted = Interrupted(15)
        interrupted.run_directory, interrupted.step = tmp_path / name, 7
        raise interrupted

    monkeypatch.setitem(entry.COMMANDS, "train", stopped)
    assert entry.main(["total_steps=10"]) == 143
    line = capsys.readouterr().err.strip()
    assert line == f"interrupted by SIGTERM at step 7; to go on: {resume_command(tmp_path / name, None)}"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_same_with_more_seeds_is_the_same(shell, pasted, capsys):
    """Not DDPG on Pendulum, whatever was trained."""
    words = ["algo=q_learning", "env=frozen_lake", "total_steps=16", "eval=final", "eval.final_episodes=1"]
    words += [
        "runner=device",
        "noise.schedule.end=0.25",
        "logger.console=plain",
        override_text("runs_dir", "a=(b) 'c'"),
    ]
    assert entry.main(words) == 0
    command = re.search(r"seeds in one program:\n +(.*)", capsys.readouterr().out)[1]
    (given,) = pasted(shell, [command])
    same, first = compose(given[2:]).config, compose(words).config
    assert same.pop("runner")["seeds"] == 16 and first.pop("runner")
    assert same == first
