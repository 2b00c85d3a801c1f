"""Damage is found, what is deleted was meant, and runs come and go whole."""

import io
import json
import struct
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from conftest import TRUSTED
from support.make_runs import make_group, make_run

from rlresearch.errors import RunError
from rlresearch.review.__main__ import main
from rlresearch.review.commands import import_runs, maintain, reproduce
from rlresearch.review.runs import reader, tfevents
from rlresearch.storage.provenance import provenance
from rlresearch.storage.run_directory import RunDirectory, atomic_write


@pytest.fixture
def review(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*words):
        code = main([*words, "--runs-dir", str(tmp_path / "runs")])
        return code, *capsys.readouterr()

    return run


def _changed(path, name, old, new):
    text = (path / name).read_text()
    assert old in text
    (path / name).write_text(text.replace(old, new, 1))


def _swap(name, old, new):
    return lambda path: _changed(path, name, old, new)


DAMAGES = {
    "a row that is none": (_swap("metrics.jsonl", "\n{", "\n{{"), "line 2"),
    "a row without a step": (_swap("metrics.jsonl", '"step":300', '"stop":300'), "line 3: has no step"),
    "steps that fall": (_swap("metrics.jsonl", '"step":300', '"step":3'), "step 3 comes after 200"),
    "rows that are missing": (
        lambda path: (path / "metrics.jsonl").write_text('{"step":100,"time":1}\n'),
        "ends at step 100, but run.json says 1,000",
    ),
    "no rows at all": (lambda path: (path / "metrics.jsonl").unlink(), "metrics.jsonl is missing"),
    "a torn end": (
        lambda path: (path / "evaluations.jsonl").open("a").write('{"step": 12'),
        "its last line is torn",
    ),
    "another score": (_swap("run.json", '"mean": -150.0', '"mean": -15.0'), "final_evaluation.mean"),
    "other episodes": (_swap("evaluations.jsonl", "[-160.0", "[-16.0"), "final_evaluation.mean"),
    "no evaluation": (lambda path: (path / "evaluations.jsonl").write_text(""), "has no evaluation"),
    "a configuration that is none": (lambda path: (path / "config.yaml").write_text("a: ]"), "config.yaml cannot be"),
    "a status that is none": (_swap("run.json", '"finished"', '"won"'), "status is won"),
    "a record that is none": (lambda path: (path / "run.json").write_text("{"), "run.json cannot be read"),
}


def test_a_whole_run_is_whole(tmp_path):
    assert maintain.damages(make_run(tmp_path)) == []
    assert maintain.damages(make_run(tmp_path, seed=1, status="failed")) == []
    assert maintain.damages(make_run(tmp_path, seed=2, status="running"), running=True) == []


@pytest.mark.parametrize("name", DAMAGES)
def test_verify_finds(name, tmp_path, review):
    harm, said = DAMAGES[name]
    make_run(tmp_path / "runs", seed=1)
    path = make_run(tmp_path / "runs")
    harm(path)
    code, out, err = review("verify")
    assert code == 1 and said in out and path.name in out
    assert "2 runs: 1 damaged or altered" in err


@pytest.mark.parametrize("name", ["config.yaml", "log.txt", "run.json"])
def test_a_sealed_run_tells_what_was_altered(tmp_path, review, name):
    path = make_run(tmp_path / "runs")
    code, _, err = review("verify", "--seal")
    assert code == 0 and "1 sealed" in err
    assert (
        subprocess.run(["sha256sum", "-c", maintain.SEAL], cwd=path, capture_output=True, check=False).returncode == 0
    )
    with open(path / name, "a") as file:
        file.write(" \n")
    assert f"{name}: has changed since the run was sealed" in review("verify")[1]
    (path / name).unlink()
    (path / "new.txt").write_text("")
    if name != "run.json":
        found = maintain.damages(path)
        assert f"{name}: was there when the run was sealed" in found and "new.txt: has come since" in found[-1]


def test_rm_deletes_what_was_meant_and_nothing_else(tmp_path, review):
    runs = make_group(tmp_path / "runs", "ddpg", [-1.0, -2.0])
    kept = make_run(tmp_path / "runs", "td3")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("precious")
    (runs[0] / "link").symlink_to(tmp_path / "outside", target_is_directory=True)
    code, _, err = review("rm", "algo=ddpg")
    assert code == 2 and "nothing was deleted" in err and all(path.exists() for path in runs)
    code, out, _ = review("rm", "algo=ddpg", "--yes")
    assert code == 0 and "deleted 2 runs" in out
    assert kept.exists() and not any(path.exists() for path in runs)
    assert (tmp_path / "outside" / "file").read_text() == "precious"


def test_rm_asks_and_takes_only_yes_for_yes(tmp_path, review, monkeypatch):
    path = make_run(tmp_path / "runs")
    for answer, gone in (("\n", False), ("no\n", False), ("", False), ("y\n", True)):
        answers = io.StringIO(answer)
        answers.isatty = lambda: True
        monkeypatch.setattr(sys, "stdin", answers)
        _, out, _ = review("rm", path.name)
        assert "Delete 1 run" in out and path.exists() != gone


def test_rm_leaves_a_running_run_alone(tmp_path, review):
    path = make_run(tmp_path / "runs", status="running")
    code, _, err = review("rm", path.name, "--yes")
    assert code == 2 and "still running" in err and path.exists()
    assert review("rm", path.name, "--yes", "--force")[0] == 0 and not path.exists()


def test_an_archive_holds_every_byte_and_only_then_are_runs_deleted(tmp_path, review, monkeypatch):
    paths = make_group(tmp_path / "runs", "ddpg", [-1.0, -2.0])
    before = {path.name: (path / "metrics.jsonl").read_bytes() for path in paths}
    file = tmp_path / "a.tar.gz"
    with monkeypatch.context() as patch:
        patch.setattr(maintain, "check_archive", lambda *_: (_ for _ in ()).throw(RunError("it is not there")))
        code, _, err = review("archive", "algo=ddpg", "-o", str(file), "--remove", "--yes")
    assert code == 1 and "it is not there" in err and all(path.exists() for path in paths)
    file.unlink()
    assert review("archive", "algo=ddpg", "-o", str(file), "--remove", "--yes")[0] == 0
    assert not any(path.exists() for path in paths)
    assert "is there already" in review("archive", "name~.", "-o", str(file))[2]
    with tarfile.open(file) as packed:
        packed.extractall(tmp_path / "runs", **TRUSTED)
    assert {path.name: (path / "metrics.jsonl").read_bytes() for path in paths} == before
    assert review("verify")[0] == 0


def test_a_changed_archive_is_noticed(tmp_path):
    path = make_run(tmp_path / "runs")
    from rlresearch.review.runs.index import Index

    with Index(tmp_path / "runs", cache=False) as index:
        runs = index.runs()
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as packed:
        packed.add(path / "run.json", arcname=f"{runs[0].key}/run.json")
    with pytest.raises(RunError, match="lacks"):
        maintain.check_archive(tmp_path / "a.tar.gz", runs)
    (path / "run.json").write_text("{}")
    with pytest.raises(RunError, match="is not what was packed"):
        maintain.check_archive(tmp_path / "a.tar.gz", runs)


def _monitor(folder, env="Pendulum-v1"):
    folder.mkdir(parents=True, exist_ok=True)
    about = json.dumps({"t_start": 1763740000.5, "env_id": env})
    (folder / "monitor.csv").write_text(f"#{about}\nr,l,t\n-1200.5,200,1.25\n-900.25,150,2.5\n")


def _evaluations(folder):
    results, lengths = np.array([[-1000.0, -900.0], [-800.0, -700.0]]), np.full((2, 2), 200)
    np.savez(folder / "evaluations.npz", timesteps=np.array([200, 400]), results=results, ep_lengths=lengths)


def test_runs_of_stable_baselines_stand_beside_ours(tmp_path, review):
    _monitor(tmp_path / "sb3" / "a")
    _evaluations(tmp_path / "sb3" / "a")
    _monitor(tmp_path / "sb3" / "b", "CartPole-v1")
    words = ("--algo", "ddpg", "--seed", "3", "--set", "algo.gamma=0.9")
    code, out, err = review("import", str(tmp_path / "sb3"), *words)
    assert code == 0 and out.count(" became ") == 2, err
    runs = json.loads(review("ls", "--format", "json", "env=Pendulum-v1")[1])
    assert len(runs) == 1
    (run,) = runs
    assert (run["algo"], run["seed"], run["algo.gamma"], run["status"]) == ("ddpg", 3, 0.9, "finished")
    assert (run["final"], run["best"], run["steps"], run["eval/episodes"]) == (-750.0, -750.0, 400, 2)
    assert run["train/return"] == -900.25 and run["started_at"].startswith("2025-11-21T15:46:40.5")
    assert review("verify")[0] == 0
    assert " is there already" in review("import", str(tmp_path / "sb3"), *words)[1]
    assert len(json.loads(review("ls", "--format", "json")[1])) == 2


def _varint(value):
    out = b""
    while True:
        value, low = value >> 7, value & 0x7F
        out += bytes([low | (0x80 if value else 0)])
        if not value:
            return out


def _field(number, wire, content):
    return _varint(number << 3 | wire) + content


def _bytes(number, content):
    return _field(number, 2, _varint(len(content)) + content)


def _event(wall, step, tag, value, as_tensor=False):
    """An `Event` written by hand, with fields that a reader has to skip."""
    tensor = _field(1, 0, _varint(1)) + _bytes(4, struct.pack("<f", value))
    number = _bytes(8, tensor) if as_tensor else _field(2, 5, struct.pack("<f", value))
    entry = _bytes(1, tag.encode()) + _bytes(9, _bytes(1, b"scalars")) + number
    return _field(1, 1, struct.pack("<d", wall)) + _field(2, 0, _varint(step)) + _bytes(5, _bytes(1, entry))


def _records(*events):
    out = b""
    for event in events:
        head = struct.pack("<Q", len(event))
        out += head + struct.pack("<I", tfevents.masked_crc32c(tfevents.crc32c(head))) + event + b"\0\0\0\0"
    return out


def test_castagnolis_checksum_has_its_published_value():
    assert tfevents.crc32c(b"123456789") == 0xE3069283  # RFC 3720's polynomial
    assert tfevents.crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


def test_records_are_framed_as_tensorflow_frames_them(tmp_path):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(tmp_path / "events.out.tfevents.1")) as writer:
        writer.write(_event(1000.0, 7, "a/b", 1.5))
    (found,) = tfevents.scalars(tmp_path / "events.out.tfevents.1")
    assert found == ("a/b", 7, 1000.0, 1.5)


def test_event_files_are_read_to_their_torn_end(tmp_path, review):
    events = [
        _event(1000.0, 0, "rollout/ep_rew_mean", -5.0),
        _event(1001.0, 100, "rollout/ep_rew_mean", -4.0),
        _event(1001.5, 100, "charts/lr", 0.25, as_tensor=True),
        _event(1002.0, 100, "eval/mean_reward", -3.5),
        _event(1002.5, 100, "plain", 2.0),
    ]
    folder = tmp_path / "tb"
    folder.mkdir()
    whole = _records(_bytes(3, b"brain.Event:2"), *events)
    (folder / "events.out.tfevents.1.host").write_bytes(whole + _records(events[0])[:-7])
    assert [each.value for each in tfevents.scalars(folder / "events.out.tfevents.1.host")] == [-5, -4, 0.25, -3.5, 2]
    assert review("import", str(folder))[0] == 0
    (path,) = (tmp_path / "runs").glob("*/*")
    columns = reader.metrics(path)
    assert columns["train/return"].tolist() == [-5.0, -4.0] and columns["time"].tolist() == [0.0, 1.0]
    assert columns["charts/lr"][1] == 0.25 and columns["imported/plain"][1] == 2.0
    assert reader.evaluations(path)["eval/return"].tolist() == [-3.5]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("monitor.csv", b"r,l,t\n1,2,3\n"),
        ("monitor.csv", b'#{"t_start": 1}\na,b\n1,2\n'),
        ("evaluations.npz", b"not a zip"),
        ("events.out.tfevents.1", b"nothing of the kind at all"),
    ],
)
def test_what_cannot_be_imported_is_one_line_and_leaves_nothing(tmp_path, review, name, content):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / name).write_bytes(content)
    code, _, err = review("import", str(tmp_path / "x"))
    assert code == 1 and name in err and len(err.splitlines()) == 1
    assert not list((tmp_path / "runs").glob("*/*"))


def test_an_array_that_holds_objects_is_not_unpickled(tmp_path):
    np.savez(tmp_path / "evaluations.npz", timesteps=np.array([object()]), results=np.zeros((1, 1)))
    with pytest.raises(RunError, match="evaluations.npz"):
        import_runs.read([tmp_path / "evaluations.npz"])


def test_reproduce_says_what_is_not_as_it_was(tmp_path, review):
    now = provenance([], [])
    then = now | {"python": "3.9.0", "packages": now["packages"] | {"numpy": "1.0"}, "git": {"commit": "abc"}}
    found = {row[0]: row[1:] for row in reproduce.differences(then, now)}
    assert found["python"][0] == "3.9.0" and found["numpy"][0] == "1.0" and found["commit (yours)"][0] == "abc"
    make_run(tmp_path / "runs", record={"python": "3.9.0"})
    code, out, _ = review("reproduce", "--dry")
    assert code == 0 and "3.9.0" in out


def test_reproduce_finds_the_first_number_that_differs():
    columns = {"step": np.arange(3.0), "time": np.arange(3.0), "loss/a": np.array([1.0, 2.0, np.nan])}
    columns["speed/x"] = np.arange(3.0)
    assert reproduce.differing(columns, columns) == (3, 3, "")
    other = columns | {"loss/a": np.array([1.0, 2.5, np.nan]), "time": np.zeros(3), "speed/x": np.zeros(3)}
    same, total, told = reproduce.differing(columns, other)
    assert (same, total) == (2, 3) and "loss/a at step 1 was 2.0" in told and "20 %" in told
    assert reproduce.differing(columns, {"step": np.arange(2.0)})[0] == 0


@pytest.mark.slow
def test_reproduce_trains_again_to_the_same_numbers(tmp_path, review):
    command = ["algo=q_learning", "env=frozen_lake", "total_steps=2000", "eval.final_episodes=5", "logger=quiet"]
    runs = tmp_path / "runs"
    subprocess.run([sys.executable, "-m", "rlresearch", *command, f"runs_dir={runs}"], check=True)
    code, out, err = review("reproduce")
    assert code == 0 and "of" in out, err
    assert len(list(runs.glob("*/*"))) == 2


def test_a_configuration_that_came_with_a_run_names_nothing_outside_the_package(tmp_path):
    from rlresearch.cli import rerun
    from rlresearch.config.compose import compose
    from rlresearch.errors import ConfigError

    with RunDirectory.create(tmp_path, "ddpg", "pendulum", 0) as run:
        config = compose(["algo=ddpg"]).config
        config["noise"] = {"_target_": "subprocess.Popen", "args": ["touch", str(tmp_path / "owned")]}
        atomic_write(run.path / "config.yaml", json.dumps(config))
    with pytest.raises(ConfigError, match="subprocess.Popen"):
        rerun.rerun(run.path, str(tmp_path))
    assert not (tmp_path / "owned").exists()
