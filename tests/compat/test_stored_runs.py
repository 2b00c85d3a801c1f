"""Run directories that earlier versions made are loaded as they were stored, and every command works on them.

`scripts/reliability/make_stored_runs.py` made them, with the version that they are named after. They stay for ever: a
stored run is a promise. A test that fails here says that users lose their runs.
"""

import contextlib
import functools
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ALGORITHMS, ROOT, TRUSTED, few_operations, without_xla

from rlresearch.__main__ import main as rlresearch
from rlresearch.evaluate import main as evaluate
from rlresearch.export import main as export
from rlresearch.rerun import main as rerun
from rlresearch.review.__main__ import main as review

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "scripts" / "reliability")
    from small_runs import RUNNERS
    from stored_states import actions_of, digest_of

HERE = Path(__file__).parent
MANIFESTS = {path.stem: json.loads(path.read_text()) for path in sorted(HERE.glob("*.json"))}
RUNS = [(version, run) for version, manifest in MANIFESTS.items() for run in manifest["runs"]]
# The first directory of each trained program: a population's members after it are loaded with it.
PROGRAMS = [(version, run) for version, run in RUNS if "digest" in MANIFESTS[version]["runs"][run]]
FEW = ("dqn_prioritized", "ddpg_stopped")  # to go on takes seconds each
TOLERANCE = 1e-5


def named(case):
    """Of a version and a run directory, for a test's name."""
    version, run = case
    return f"{version}-{run.partition('/')[0]}-{run.split('_')[-2]}"


def some_slow(cases, few):
    """Cases of which those that begin with none of these are in the slow tests."""
    slow = [pytest.param(each, marks=() if each[1].startswith(few) else pytest.mark.slow) for each in cases]
    return pytest.mark.parametrize("case", slow, ids=[named(each) for each in cases])


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory):
    """The stored runs of a version, to be read only."""

    @functools.cache
    def folder(version):
        made = tmp_path_factory.mktemp(version)
        with tarfile.open(HERE / f"{version}.tar.xz") as archive:
            archive.extractall(made, **TRUSTED)
        return made

    return folder


@pytest.fixture
def copied(unpacked, tmp_path, monkeypatch):
    """A version's runs of some cases, to be changed, in the folder that commands run in."""

    def folder(version, *cases):
        for case in cases:
            shutil.copytree(unpacked(version) / case, tmp_path / case)
            for path in tmp_path.glob("*/sweeps/**/*"):  # which hold the folder that they were begun in
                if path.is_file():
                    path.write_text(path.read_text().replace(MANIFESTS[version]["work"], str(tmp_path)))
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return folder


@contextlib.contextmanager
def quick(run):
    """What is built in here starts soon. Its draws are others, except on the host: there they seed the environments,
    which must replay what is stored.
    """
    with without_xla(), contextlib.nullcontext() if on_host(run) else few_operations():
        yield


def on_host(run):
    return record_of(run)["choices"]["runner"] == "host"


def record_of(run):
    return json.loads((run / "run.json").read_text())


def rows_of(run, name):
    return [json.loads(line) for line in (run / f"{name}.jsonl").read_text().splitlines()]


# What is stored.


@pytest.mark.parametrize("version", MANIFESTS)
def test_the_stored_runs_are_of_every_algorithm_on_every_runner(version):
    cases = {run.partition("/")[0] for run in MANIFESTS[version]["runs"]}
    if version == "0.1.0":
        assert {f"{algo}_{runner}" for algo in ALGORITHMS for runner in RUNNERS} < cases
    assert {"sac_pbt", "ppo_normalize", "dqn_prioritized", "ddpg_stopped", "sweep_fused", "sweep_basic"} < cases


def test_they_are_small():
    assert MANIFESTS and sum(path.stat().st_size for path in HERE.glob("*.tar.xz")) < 2 * 2**20


@pytest.mark.parametrize("case", PROGRAMS, ids=named)
def test_what_is_loaded_has_the_stored_digest(case, unpacked):
    version, run = case
    with quick(unpacked(version) / run):
        assert digest_of(unpacked(version) / run) == MANIFESTS[version]["runs"][run]["digest"]


@pytest.mark.parametrize("case", RUNS, ids=named)
def test_the_stored_policy_acts_as_it_did(case, unpacked):
    version, run = case
    stored = MANIFESTS[version]["runs"][run]
    with quick(unpacked(version) / run):
        actions = actions_of(unpacked(version) / run, MANIFESTS[version]["observations"][stored["observations"]])
    assert actions.shape == np.shape(stored["actions"])
    np.testing.assert_allclose(actions, stored["actions"], rtol=0, atol=TOLERANCE)


# What is done with a stored run.


@some_slow(PROGRAMS, FEW)
def test_a_stored_run_goes_on(case, copied):
    version, name = case
    run = copied(version, name.partition("/")[0]) / name
    before, evaluations = record_of(run), rows_of(run, "evaluations")
    told = sorted(int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdecimal())
    total = told[-1] + 32
    with quick(run):
        words = [f"resume={run}", f"total_steps={total}", "eval.final_episodes=1"]
        assert rlresearch(words) == 0
    after, more = record_of(run), rows_of(run, "evaluations")
    assert (after["status"], after["total_steps"], after["resumes"][0]["step"]) == ("finished", total, told[-1])
    assert after["state_digest"] != before["state_digest"]
    past = [row for row in evaluations if row["step"] < told[-1]]
    assert more[: len(past)] == past and more[-1]["step"] == total


@some_slow(RUNS, ("dqn_noisy", "q_learning_host"))
def test_a_stored_policy_is_evaluated(case, unpacked, capsys):
    version, name = case
    run = unpacked(version) / name
    assert evaluate([str(run), "--episodes", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["returns"]) == 2 and np.all(np.isfinite(found["returns"]))
    if record_of(run)["status"] == "finished":  # then its last state was evaluated, from the same starts
        assert found["lengths"] == rows_of(run, "evaluations")[-1]["lengths"]


@some_slow(RUNS, ("ppo_normalize",))
def test_a_stored_policy_is_exported(case, unpacked, tmp_path):
    version, name = case
    assert export([str(unpacked(version) / name), str(tmp_path / "policy")]) == 0  # compares the actions itself
    assert json.loads((tmp_path / "policy" / "policy.json").read_text())["run"].endswith(name)


@some_slow(RUNS, ("expected_sarsa_device",))
def test_a_stored_run_is_trained_again(case, unpacked, tmp_path):
    version, name = case
    run = unpacked(version) / name
    if record_of(run)["status"] != "finished":
        pytest.skip("its whole length would take minutes")
    with quick(run):
        assert rerun([str(run), "--runs-dir", str(tmp_path)]) == 0
    again = [path.parent for path in tmp_path.glob("*/*/run.json")]
    assert {record_of(each)["status"] for each in again} == {"finished"}
    steps = lambda one, name: [row["step"] for row in rows_of(one, name)]  # noqa: E731
    for name in ("metrics", "evaluations"):
        assert steps(again[0], name) == steps(run, name)
    assert rows_of(again[0], "metrics")[-1].keys() == rows_of(run, "metrics")[-1].keys()


# Reviewing.

REVIEWS = {
    "ls": ["ls", "--limit=0", "--format=json"],
    "compare": ["compare", "algo=td3", "--all", "--resamples=100"],
    "table": ["table", "env=cartpole", "--resamples=100"],
    "plot": ["plot", "algo=q_learning", "--output=curves.png"],
    "verify": ["verify"],
    "export": ["export", "--rows=evaluations", "--output=rows.csv"],
    "report": ["report", "algo=ddpg", "--output=page.html"],
}


@pytest.mark.parametrize("version", MANIFESTS)
@pytest.mark.parametrize("command", REVIEWS)
def test_stored_runs_are_reviewed(command, version, unpacked, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert review([*REVIEWS[command], f"--runs-dir={unpacked(version)}", "--no-cache"]) == 0
    said = capsys.readouterr()
    count = len(MANIFESTS[version]["runs"])
    if command == "ls":
        assert len(json.loads(said.out)) == count
    elif command == "verify":
        assert said.err == f"{count:,} runs: 0 damaged or altered\n"
    elif command == "export":
        assert len((tmp_path / "rows.csv").read_text().splitlines()) > count
    elif command in ("plot", "report"):
        assert (tmp_path / REVIEWS[command][-1].partition("=")[2]).stat().st_size > 1000
    else:
        assert said.out.count("\n") >= 2


@some_slow(RUNS, FEW)
def test_a_stored_run_is_shown(case, unpacked, capsys):
    version, name = case
    run = unpacked(version) / name
    assert review(["show", str(run), "--json", f"--runs-dir={unpacked(version)}", "--no-cache"]) == 0
    assert MANIFESTS[version]["runs"][name]["status"] in capsys.readouterr().out


@pytest.mark.parametrize("version", MANIFESTS)
def test_what_it_would_take_to_reproduce_a_stored_run_is_said(version, unpacked, capsys):
    run = next(run for run in MANIFESTS[version]["runs"] if run.startswith("sac_device"))
    words = [str(unpacked(version) / run), f"--runs-dir={unpacked(version)}", "--no-cache"]
    assert review(["reproduce", "--dry", *words]) == 0
    assert "as they were" in capsys.readouterr().out  # its host is no machine's name


@pytest.mark.slow
@pytest.mark.parametrize("version", MANIFESTS)
def test_a_stored_run_is_reproduced(version, copied, monkeypatch, capfd):
    """In a process of its own, whose programs are not those that made the stored run: numbers may differ."""
    folder = copied(version, "q_learning_device")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert review(["reproduce", "latest", f"--runs-dir={folder}", "--no-cache"]) in (0, 1)
    said = capfd.readouterr().out
    assert "metrics: " in said and "evaluations: " in said and "rows then" not in said


# Sweeps and searches.


def sweep_of(folder, case):
    (found,) = (folder / case / "sweeps").iterdir()
    return found


def statuses(folder, case):
    return sorted(record_of(path.parent)["status"] for path in (folder / case).glob("*/*/run.json"))


@pytest.mark.parametrize("version", MANIFESTS)
def test_a_stored_sweep_that_is_done_has_nothing_left(version, copied, capsys):
    folder = copied(version, "sweep_fused")
    before = statuses(folder, "sweep_fused")
    assert rlresearch([f"resume={sweep_of(folder, 'sweep_fused')}"]) == 0
    assert statuses(folder, "sweep_fused") == before == ["finished"] * 4
    assert "4" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("version", MANIFESTS)
def test_a_stored_sweep_goes_on(version, copied):
    folder = copied(version, "sweep_basic")
    assert statuses(folder, "sweep_basic") == ["finished", "interrupted"]
    with without_xla(), few_operations():
        assert rlresearch([f"resume={sweep_of(folder, 'sweep_basic')}"]) == 0
    assert statuses(folder, "sweep_basic") == ["finished", "finished"]


@pytest.mark.slow
@pytest.mark.parametrize("version", MANIFESTS)
def test_a_stored_search_goes_on(version, copied):
    folder = copied(version, "search")
    assert statuses(folder, "search") == ["finished", "interrupted"]
    with without_xla(), few_operations():
        assert rlresearch([f"resume={sweep_of(folder, 'search')}"]) == 0
    assert statuses(folder, "search") == ["finished"] * 3
