"""A refusal names the cause, as it was typed or in which file it stands, and the way out."""

import subprocess
import sys

import pytest

from rlresearch.cli import main as entry
from rlresearch.review.__main__ import main as review

GLOBAL = "# @package _global_\n"
LAB = {
    "interp": GLOBAL + 'algo: {learning_starts: "${oc.env:WARMUP,100}"}\n',
    "no_package": "total_steps: 300\nalgo: {gamma: 0.9}\n",
    "params": GLOBAL + "hydra:\n  sweeper:\n    params:\n      seed: range(3)\n      algo.gamma: 0.9,0.99\n",
    "trials": GLOBAL + "hydra: {sweeper: {n_trials: 3}}\n",
}


@pytest.fixture
def lab(tmp_path):
    folder = tmp_path / "lab" / "experiment"
    folder.mkdir(parents=True)
    for name, text in LAB.items():
        (folder / f"{name}.yaml").write_text(text)
    (folder / "bom.yaml").write_bytes(b"\xef\xbb\xbf" + LAB["interp"].encode())
    (folder / "a-b_c.yml").write_text(GLOBAL)
    return tmp_path / "lab"


@pytest.fixture
def refused(capsys):
    """The line of a command that is wrong."""

    def refused(*words):
        assert entry.main(list(words)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("rlresearch: ")

    return refused


IN_THE_LAB = {
    "experiment=interp": [
        "algo.learning_starts='100': is text, and must be a whole number",
        "${oc.decode:${oc.env:NAME}}",
    ],
    "experiment=no_package": ["experiment/no_package.yaml: lacks the first line `# @package _global_`"],
    "experiment=[no_package]": ["experiment/no_package.yaml: lacks the first line `# @package _global_`"],
    "experiment=bom": ["experiment/bom.yaml: begins with a byte order mark", "save it as UTF-8 without one"],
    "experiment=a-b_c": ["experiment=a-b_c: there is no such option", "a-b_c.yml: it takes names that end in .yaml"],
}


@pytest.mark.parametrize("word", IN_THE_LAB)
def test_a_file_at_fault_is_named(word, lab, refused, monkeypatch):
    monkeypatch.delenv("WARMUP", raising=False)
    line = refused(f"--config-dir={lab}", word)
    assert all(part in line for part in IN_THE_LAB[word]), line


TYPED = {
    "+resume=runs/x": ["+resume=runs/x: adds nothing; resume=runs/x, without +, is meant"],
    "runs_dir=out/a=b": ["runs_dir=out/a=b: ", "text with such signs needs quotes: 'runs_dir=\"out/a=b\"'"],
    "runner.values={optimizer.lr:[0.0003": ["a bracket has no other half", "quote it"],
    "runner.values=0.001]}": ["a bracket has no other half", "quote it"],
    "total_steps='100'": ["total_steps='100': is text, and must be a whole number above 0; without quotes it is"],
    "deterministic='true'": ["deterministic='true': is text, and must be true or false"],
    "~algo._target_": ["~algo._target_: takes away what a run needs: algo="],
    "~env.id": ["env.id is missing"],
    "~network": ["~network: takes away what a run needs: network."],
}


@pytest.mark.parametrize("word", TYPED)
def test_a_word_at_fault_is_named_as_it_was_typed(word, refused):
    line = refused(word)
    assert all(part in line for part in TYPED[word]), line


def test_braces_that_the_shell_took_away_are_asked_for_in_quotes(refused):
    line = refused("runner=population", "runner.values=algo.gamma:0.9", "runner.values=optimizer.lr:1")
    assert "must be a mapping" in line and "quotes keep them" in line


def test_a_file_of_a_run_is_not_taken_for_the_run(tmp_path, refused):
    run = tmp_path / "a run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    for inside in ("run.json", "config.yaml", "checkpoints"):
        line = refused(f"resume='{run / inside}'")
        assert line.endswith(f'; this is inside of one: resume="{run}".'), line


def jobs(capsys, *words):
    assert entry.main([*words, "hydra.sweeper.plan_only=true"]) == 0
    return capsys.readouterr().out.split(" jobs")[0]


def test_an_experiments_file_may_hold_the_values_of_a_sweep(lab, capsys):
    where = f"--config-dir={lab}"
    assert jobs(capsys, "-m", where, "experiment=params") == "6"
    assert jobs(capsys, "-m", where, "experiment=params", "seed=7") == "2"  # what is typed wins
    assert jobs(capsys, "-m", where, "experiment=params", "algo=ddpg,td3") == "12"
    assert jobs(capsys, "-m", "hydra.sweeper.params={seed:'1,2'}") == "2"


def test_settings_of_another_sweeper_are_named(lab, refused):
    line = refused("-m", f"--config-dir={lab}", "experiment=trials", "seed=1,2")
    assert line.startswith("hydra.sweeper.n_trials=3: hydra/sweeper=basic has no such setting")


def test_params_of_a_sweep_are_a_mapping_of_values(refused):
    assert "hydra.sweeper.params=3: must be a mapping" in refused("-m", "hydra.sweeper.params=3")
    assert "knows no intervals" in refused("-m", "hydra.sweeper.params={seed:'interval(1,2)'}")


@pytest.mark.parametrize("module, words", [("rlresearch", "--cfg job"), ("rlresearch.review", "")])
@pytest.mark.parametrize(
    "output, code, told",
    [
        ("| head -0", 0, ""),
        (">&-", 0, ""),
        (">/dev/full", 1, "standard output cannot be written: No space left on device"),
    ],
)
def test_an_output_that_takes_nothing_is_no_traceback(module, words, output, code, told, tmp_path):
    command = f"set -o pipefail; '{sys.executable}' -m {module} {words} {output}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=300)
    assert (done.returncode, len(done.stderr.splitlines())) == (code, bool(told)), done.stderr
    assert told in done.stderr


def test_a_run_that_a_filter_was_meant_for(tmp_path, monkeypatch, capsys):
    from support.make_runs import make_run

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    make_run(tmp_path / "runs", settings={"algo.gamma": 0.9})
    make_run(tmp_path / "runs", settings={"algo.gamma": 0.4})
    where = ["--runs-dir", str(tmp_path / "runs")]
    for typed in ("algo.gamma>0.5", "algo.gamma > 0.5", "algo.gamma >= 0.5 "):
        assert review(["ls", typed, "--format", "csv", *where]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 2
    assert review(["ls", "algo.gamma", *where]) == 2
    assert "algo.gamma: is a key, and no run; a filter is one word in quotes" in capsys.readouterr().err


def test_tuned_settings_are_named_unless_the_command_has_changed_them(refused):
    assert " of tuned=dqn_cartpole" in refused("algo=dqn", "env=cartpole", "total_steps=250", "algo.learning_starts=9")
    assert "tuned" not in refused("algo=ppo", "env=cartpole", "total_steps=2000", "optimizer.schedule.over=100")
