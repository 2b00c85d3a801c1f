"""Runs are read whatever state they are in, and read again only when they have changed."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
from support.make_runs import INFINITY, NAN, evaluation_rows, make_run, metrics_rows

from rlresearch.errors import ConfigError, RunError
from rlresearch.review import tables
from rlresearch.review.runs import index as index_module
from rlresearch.review.runs import reader
from rlresearch.review.runs.index import Index
from rlresearch.storage.jsonl import read_rows


@pytest.fixture
def opened(tmp_path):
    """A function that opens an index of tmp_path/runs with the cache of this test."""
    (tmp_path / "runs").mkdir()
    return lambda **about: Index(tmp_path / "runs", folder=tmp_path / "cache", **about)


def _listed(opened):
    with opened() as index:
        return index.runs()


def test_a_run_answers_for_its_record_its_configuration_and_its_newest_numbers(tmp_path):
    values, evaluated = reader.read(make_run(tmp_path, seed=3, final=-123.0))
    assert (values["algo"], values["algo.gamma"], values["seed"], values["status"]) == ("ddpg", 0.98, 3, "finished")
    assert (values["network.actor.hidden"], values["optimizer.eps"]) == ("[64,64]", 1e-7)
    assert (values["steps"], values["total_steps"], values["duration"]) == (1000, 1000, 12.5)
    assert values["final"] == values["best"] == pytest.approx(-123.0)
    assert values["loss/critic"] == 0.1 and values["eval/episodes"] == 4
    assert evaluated["eval/return"].tolist() == pytest.approx([-923.0, -723.0, -523.0, -323.0, -123.0])
    assert "problem" not in values


def test_columns_are_what_read_rows_reads(tmp_path):
    rows = metrics_rows(count=5)
    rows[1]["loss/critic"], rows[2]["loss/critic"], rows[3]["train/return"] = NAN, INFINITY, None
    del rows[4]["train/return"]
    path = make_run(tmp_path, rows=rows)
    columns = reader.metrics(path)
    slow = list(read_rows(path / "metrics.jsonl"))
    for name, column in columns.items():
        expected = [NAN if row.get(name) is None else row[name] for row in slow]
        np.testing.assert_array_equal(column, expected, err_msg=name)
    assert np.isposinf(columns["loss/critic"][2])


@pytest.mark.parametrize("piece", [64, 200, 1 << 20])
def test_rows_are_whole_wherever_the_pieces_of_a_file_end(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(reader, "PIECE", piece)
    path = make_run(tmp_path, rows=metrics_rows(count=30))
    assert reader.json_rows(path / "metrics.jsonl") == list(read_rows(path / "metrics.jsonl"))


@pytest.mark.parametrize("torn", [b'{"step": 11', b'{"step": 1100}', b"\0\0\0\0", b'{"step":1100}\n{"st'], ids=repr)
@pytest.mark.parametrize("piece", [300, 1 << 20])
def test_a_torn_last_line_is_left_out_and_a_whole_one_is_not(tmp_path, monkeypatch, torn, piece):
    monkeypatch.setattr(reader, "PIECE", piece)
    path = make_run(tmp_path)
    with open(path / "metrics.jsonl", "ab") as file:
        file.write(torn)
    expected = [row["step"] for row in read_rows(path / "metrics.jsonl")]
    assert [row["step"] for row in reader.json_rows(path / "metrics.jsonl")] == expected
    assert reader.metrics(path)["step"].tolist() == expected
    assert len(expected) == (11 if b"1100" in torn else 10)


def test_damage_before_the_end_names_its_line_and_spoils_no_listing(tmp_path, opened):
    path = make_run(tmp_path / "runs")
    lines = (path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (path / "metrics.jsonl").write_bytes(b"".join([*lines[:4], b"{broken\n", *lines[4:]]))
    with pytest.raises(RunError, match="line 5"):
        reader.metrics(path)
    with opened() as index:
        (run,) = index.runs()
        assert run.values["loss/critic"] == 0.1
        assert index.columns([run], ["loss/critic"]) == [{}]


def test_steps_that_a_resumed_run_made_again_count_once(tmp_path):
    rows = metrics_rows(count=6)
    again = [row | {"loss/critic": 99.0} for row in metrics_rows(count=8)[4:]]
    columns = reader.metrics(make_run(tmp_path, rows=[*rows, *again]))
    assert columns["step"].tolist() == [100, 200, 300, 400, 500, 600, 700, 800]
    assert columns["loss/critic"].tolist()[4:] == [99.0] * 4 and columns["loss/critic"][3] == 0.25


BROKEN = {
    "no run.json": lambda path: (path / "run.json").write_text(""),
    "run.json is a list": lambda path: (path / "run.json").write_text("[1, 2]"),
    "config.yaml is not YAML": lambda path: (path / "config.yaml").write_text("a: [1, 2\nb: }{"),
    "config.yaml is a list": lambda path: (path / "config.yaml").write_text("- 1"),
    "config.yaml runs code": lambda path: (path / "config.yaml").write_text("a: !!python/object/apply:os.getpid []"),
    "run.json is bytes": lambda path: (path / "run.json").write_bytes(b"\xff\xfe\x00{"),
    "config.yaml nests too deeply": lambda path: (path / "config.yaml").write_text("[" * 3000),
    "run.json nests too deeply": lambda path: (path / "run.json").write_text("[" * 100_000),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_damaged_run_is_listed_with_its_problem(tmp_path, opened, damage):
    whole, path = make_run(tmp_path / "runs"), make_run(tmp_path / "runs", seed=1)
    BROKEN[damage](path)
    runs = {run.name: run for run in _listed(opened)}
    assert runs[path.name].values["problem"]
    assert "problem" not in runs[whole.name].values


def test_what_json_and_utf8_have_no_place_for_spoils_no_listing(tmp_path, opened):
    """A run may come from anybody: a number of 40 digits, half a letter, a folder's name of loose bytes."""
    settings = {"algo.big": 10**40, "algo.low": -(2**70), "algo.fits": 2**62, "algo.nothing": NAN}
    rows = [{"step": 1, "loss/x": 10**400}, {"step": 2, "loss/x": 2}]
    path = make_run(tmp_path / "runs", settings=settings, rows=rows)
    record = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(record | {"device": "half \ud800 letter"}))
    os.rename(make_run(tmp_path / "runs", seed=1), os.fsencode(path.parent) + b"/bad_\xff")
    for _ in range(2):  # from its files, then from the cache
        (run,) = _listed(opened)
        assert run.values["algo.big"] == str(10**40) and run.values["algo.fits"] == 2**62
        assert run.values["device"] == "half ? letter"
        json.loads(tables.to_json(run.values))
    with opened() as index:
        assert index.columns(index.runs(), ["loss/x"])[0]["loss/x"].tolist() == [INFINITY, 2.0]


def test_what_is_no_file_is_never_opened(tmp_path, opened):
    """A pipe would be waited on for ever, a link leads out of the run."""
    secret = tmp_path / "secret.yaml"
    secret.write_text("password: 1")
    path = make_run(tmp_path / "runs")
    for name in ("config.yaml", "metrics.jsonl", "evaluations.jsonl"):
        (path / name).unlink()
    os.mkfifo(path / "metrics.jsonl")
    (path / "config.yaml").symlink_to(secret)
    (path / "evaluations.jsonl").mkdir()
    (tmp_path / "runs" / "loop").symlink_to(tmp_path / "runs", target_is_directory=True)
    (run,) = _listed(opened)
    assert "password" not in run.values and run.values["status"] == "finished"


def test_only_what_is_new_or_changed_is_read_again(tmp_path, opened, monkeypatch):
    paths = [make_run(tmp_path / "runs", seed=seed) for seed in range(3)]
    read, real = [], reader.read
    monkeypatch.setattr(reader, "read", lambda path: read.append(path.name) or real(path))
    assert len(_listed(opened)) == 3
    assert sorted(read) == sorted(path.name for path in paths)
    read.clear()
    _listed(opened)
    assert read == []
    with open(paths[1] / "metrics.jsonl", "a") as file:
        file.write('{"step":1100,"time":14,"loss/critic":7}\n')
    new = make_run(tmp_path / "runs", seed=9)
    shutil.rmtree(paths[0])
    runs = {run.name: run for run in _listed(opened)}
    assert sorted(read) == sorted([paths[1].name, new.name])
    assert set(runs) == {paths[1].name, paths[2].name, new.name}
    assert runs[paths[1].name].values["loss/critic"] == 7


def test_rows_are_read_once_and_again_when_they_change(tmp_path, opened, monkeypatch):
    path = make_run(tmp_path / "runs")
    read, real = [], reader.metrics
    monkeypatch.setattr(reader, "metrics", lambda path: read.append(path.name) or real(path))

    def critic():
        with opened() as index:
            return index.columns(index.runs(), ["loss/critic"])[0]["loss/critic"].tolist()

    first = critic()
    assert critic() == first and len(read) == 1
    (path / "metrics.jsonl").write_text('{"step":100,"time":1,"loss/critic":5}\n')
    assert critic() == [5.0] and len(read) == 2


def test_rows_of_a_running_run_are_not_kept(tmp_path, opened):
    make_run(tmp_path / "runs", status="running")
    with opened() as index:
        index.columns(index.runs(), ["loss/critic"])
        assert not index.ask("SELECT 1 FROM columns WHERE name LIKE 'm%'")


def test_many_runs_are_read_by_processes_to_the_same_end(tmp_path, opened, monkeypatch):
    for seed in range(6):
        make_run(tmp_path / "runs", seed=seed)
    with opened(cache=False) as index:
        alone = [(run.key, dict(run.values)) for run in index.runs()]
    monkeypatch.setattr(index_module, "PARALLEL", 2)
    with opened() as index:
        assert [(run.key, dict(run.values)) for run in index.runs()] == alone


def _damaged(file):
    file.write_bytes(b"this is no database" * 100)


def _of_another_version(file):
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA user_version = 999")


@pytest.mark.parametrize("spoil", [_damaged, _of_another_version, lambda file: file.unlink()])
def test_a_cache_may_be_deleted_damaged_or_old(tmp_path, opened, spoil):
    make_run(tmp_path / "runs")
    before = _listed(opened)
    (file,) = (tmp_path / "cache").glob("*.sqlite")
    spoil(file)
    assert _listed(opened) == before
    assert _listed(opened) == before


def test_without_a_place_for_the_cache_everything_works(tmp_path, opened):
    (tmp_path / "cache").write_text("a file where the folder should be")
    make_run(tmp_path / "runs")
    with opened() as index:
        runs = index.runs()
        index.remember(runs)
        assert len(runs) == 1 and index.columns(runs, ["eval/return"])[0]["eval/return"].size == 5


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="--runs-dir"):
        Index(tmp_path / "none", cache=False)


def test_runs_are_found_at_any_depth_newest_first(tmp_path, opened):
    old = make_run(tmp_path / "runs" / "a" / "b", started_at="2026-11-20T10:00:00Z")
    new = make_run(tmp_path / "runs", seed=1, started_at="2026-11-22T10:00:00Z")
    inside = make_run(new / "videos", seed=2)
    assert [run.name for run in _listed(opened)] == [new.name, old.name], inside


def test_a_run_whose_process_is_gone_is_killed_and_not_running(tmp_path, opened):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    gone = make_run(tmp_path / "runs", status="running", record={"pid": process.pid})
    there = make_run(tmp_path / "runs", seed=1, status="running")
    elsewhere = make_run(tmp_path / "runs", seed=2, status="running", record={"pid": process.pid, "host": "elsewhere"})
    reused = make_run(tmp_path / "runs", seed=3, status="running", started_at="2020-01-01T00:00:00Z")
    found = {run.name: run.values["status"] for run in _listed(opened)}
    assert found == {gone.name: "killed", there.name: "running", elsewhere.name: "running", reused.name: "killed"}


def test_a_process_that_nobody_waited_for_is_gone(tmp_path, opened):
    process = subprocess.Popen([sys.executable, "-c", ""])
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        make_run(tmp_path / "runs", status="running", record={"pid": process.pid})
        assert _listed(opened)[0].values["status"] == "killed"
    finally:
        process.wait()


def test_the_final_score_is_that_of_run_json_or_else_the_newest_evaluation(tmp_path):
    recorded = make_run(tmp_path, record={"final_evaluation": {"mean": -7.0}})
    failed = make_run(tmp_path, seed=1, status="failed", evaluations=evaluation_rows(-300.0, 2))
    assert reader.read(recorded)[0]["final"] == -7.0
    values = reader.read(failed)[0]
    assert (values["final"], values["best"], values["steps"]) == (-300.0, -300.0, 700)


def test_values_survive_the_cache(tmp_path, opened):
    make_run(tmp_path / "runs", settings={"algo.tau": 0.005, "algo.name": "x\ny", "algo.list": [1, "a"], "none": None})
    fresh, cached = _listed(opened), _listed(opened)
    assert json.dumps(fresh[0].values) == json.dumps(cached[0].values)
