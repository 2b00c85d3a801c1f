"""W&B and TensorBoard have what the run directory has: every row, once, whatever the server did meanwhile."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT
from support.fake_wandb import fake_wandb
from support.make_runs import evaluation_rows, make_run, metrics_rows

from rlresearch.cli.main import main
from rlresearch.config.changes import parse_changes
from rlresearch.config.compose import compose
from rlresearch.config.instantiate import make
from rlresearch.errors import ConfigError
from rlresearch.loggers.tail import LoggedRow, RowFollower
from rlresearch.loggers.tensorboard import TensorBoard
from rlresearch.loggers.wandb import client, uploader
from rlresearch.loggers.wandb.settings import WandbSettings, allowed, marked
from rlresearch.loggers.wandb.supervisor import WandbProcess, start_wandb
from rlresearch.review.__main__ import main as review
from rlresearch.review.runs import tfevents
from rlresearch.storage.jsonl import JsonLines, read_rows
from rlresearch.storage.rollback import TIMING, cut
from rlresearch.storage.run_directory import RunDirectory, atomic_write
from rlresearch.training.experiment import plan
from rlresearch.training.resume import SAFE_GROUPS

SETTINGS = WandbSettings(project="tests", entity="lab", exit_wait_s=90.0)
MISBEHAVIOUR = ["gone", "hang", "reset", "garbage", "429", "500"]


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A W&B server of its own for each test, and a client that knows no other."""
    with fake_wandb() as made:
        home = tmp_path / "home"
        home.mkdir()
        for name, value in made.environment(home).items():
            monkeypatch.setenv(name, value)
        for name in ("WANDB_SILENT", "WANDB_CONSOLE"):
            monkeypatch.setenv(name, {"WANDB_SILENT": "true", "WANDB_CONSOLE": "off"}[name])
        monkeypatch.setattr(uploader, "POLL_S", 0.02)
        monkeypatch.setattr(client, "CONNECT_S", 30.0)
        yield made


@contextmanager
def mirrored(runs, settings=SETTINGS):
    """What the process beside a run does, in this one. Yields the list of what it tells."""
    ended, told = threading.Event(), []
    work = threading.Thread(
        target=uploader.mirror, args=[runs, settings, ended, lambda kind, **about: told.append((kind, about))]
    )
    work.start()
    try:
        yield told
    finally:
        ended.set()
        work.join(300)
        assert not work.is_alive()


def new_run(root, seed=0, **record):
    run = RunDirectory.create(root, "ddpg", "pendulum", seed)
    atomic_write(run.path / "config.yaml", yaml.safe_dump({"seed": seed, "algo": {"gamma": 0.98}}))
    run.record(**record)
    run.close()
    return run.path


def write(path, metrics=(), evaluations=()):
    for name, rows in (("metrics", metrics), ("evaluations", evaluations)):
        file = JsonLines(path / f"{name}.jsonl")
        for row in rows:
            file.write(row)
        file.close()


def end(path, status="finished"):
    RunDirectory(path).record(status=status)


def as_sent(path):
    """The rows that W&B should have, by what a person compares: metrics, and evaluations with every return."""
    return [{"step": p.step, "time": p.time} | p.values for p in RowFollower(path).rest()]


def as_received(server, path):
    own = ("_step", "_runtime", "_timestamp", "eval/return_histogram", "eval/video", "plots/learning_curve")
    rows = server.history(path.name)
    assert [row["_step"] for row in rows] == sorted({row["_step"] for row in rows}), "doubled, or out of order"
    return [{name: value for name, value in row.items() if name not in own} for row in rows]


def without_times(row):
    return {name: value for name, value in row.items() if name not in TIMING}


def test_rows_come_in_the_order_in_which_they_were_written_and_each_once(tmp_path):
    draw, path = random.Random(0), make_run(tmp_path, rows=[], evaluations=[])
    written, seen, following = [], [], RowFollower(path)
    metrics, evaluations = JsonLines(path / "metrics.jsonl"), JsonLines(path / "evaluations.jsonl")
    for step in range(1, 300):
        if draw.random() < 0.4:
            metrics.write({"step": step, "loss/critic": step})
            written.append((step, "loss/critic"))
        if draw.random() < 0.3:
            evaluations.write({"step": step, "returns": [step]})
            written.append((step, "eval/return"))
        if draw.random() < 0.2:
            seen += following.so_far()
    seen += following.rest()
    assert [(p.step, "loss/critic" if "loss/critic" in p.values else "eval/return") for p in seen] == written
    assert all(a.position < b.position for a, b in zip(seen, seen[1:]))


def test_a_row_that_is_half_written_is_waited_for(tmp_path):
    path = make_run(tmp_path, rows=[], evaluations=[])
    following = RowFollower(path)
    with open(path / "metrics.jsonl", "ab", buffering=0) as file:
        file.write(b'{"step":1,"loss/critic":1.0}\n{"step":2,"loss/cr')
        assert [p.step for p in following.so_far()] == [1]
        file.write(b'itic":2.0}\n')
        assert following.so_far() == [LoggedRow(4, 2, None, {"loss/critic": 2.0})]


def test_an_evaluation_waits_for_the_metrics_before_it(tmp_path):
    """Between the look at one file and the look at the other both have grown."""
    path = make_run(tmp_path, rows=[], evaluations=[])
    following = RowFollower(path)
    write(path, [{"step": 1, "loss/critic": 1.0}], [{"step": 2, "returns": [2.0]}])
    assert [p.step for p in following.so_far()] == [1]
    write(path, [{"step": 2, "loss/critic": 2.0}, {"step": 3, "loss/critic": 3.0}])
    assert [(p.step, "eval/return" in p.values) for p in following.so_far()] == [(2, False), (2, True), (3, False)]


def test_a_live_run_is_in_wandb_row_by_row_and_as_it_ended(server, tmp_path):
    path = new_run(tmp_path)
    with mirrored([path]) as told:
        for at, row in enumerate(metrics_rows()):
            write(path, [row], evaluation_rows()[at // 2 : at // 2 + 1] if at % 2 else [])
            time.sleep(0.02)
        end(path)
    assert as_received(server, path) == as_sent(path)
    run = server.runs[path.name]
    assert (run["exit_code"], run["config"]["algo"]["value"], run["events"]) == (0, {"gamma": 0.98}, [])
    assert told == [("page", {"page": f"{server.url}/lab/tests/runs/{path.name}"})]
    assert marked(path, "wandb")["complete"] and not list((path / "wandb").iterdir())
    assert run["about"]["jobType"] == "train" and not {"commit", "program", "host", "repo"} & set(run["about"])


def test_a_resumed_run_goes_on_in_wandb_without_a_row_twice_or_missing(server, tmp_path):
    path, rows, evaluations = new_run(tmp_path), metrics_rows(count=20), evaluation_rows(count=10)
    with mirrored([path]):
        write(path, rows[:12], evaluations[:6])  # and then it is killed
    cut_at = {"metrics": 0, "evaluations": 0}
    for name, count in (("metrics", 8), ("evaluations", 4)):
        lines = (path / f"{name}.jsonl").read_bytes().splitlines(keepends=True)
        cut_at[name] = sum(map(len, lines[:count]))
    cut(path, cut_at)
    with mirrored([path]):
        write(path, rows[8:], evaluations[4:])
        end(path)
    assert as_received(server, path) == as_sent(path) and len(as_sent(path)) == 30
    assert set(server.runs[path.name]["written"].values()) == {1}


def test_the_members_of_a_population_stay_apart_and_stand_together(server, tmp_path):
    paths = [new_run(tmp_path, seed) for seed in range(3)]
    names = [path.name for path in paths]
    for index, path in enumerate(paths):
        RunDirectory(path).record(population={"index": index, "members": names})
    with mirrored(paths):
        for seed, path in enumerate(paths):
            write(path, metrics_rows(seed), evaluation_rows(-100.0 * seed))
            end(path)
    for path in paths:
        assert as_received(server, path) == as_sent(path)
        assert server.runs[path.name]["about"]["groupName"] == names[0]


@pytest.mark.parametrize("manner", MISBEHAVIOUR)
def test_a_server_that_misbehaves_costs_no_row_and_is_told_of_once(server, tmp_path, monkeypatch, manner, capsys):
    monkeypatch.setattr(client, "CONNECT_S", 1.0)
    monkeypatch.setattr(uploader, "RETRY_S", 0.5)
    path = make_run(tmp_path / "runs")
    server.stop() if manner == "gone" else setattr(server, "manner", manner)
    with mirrored([path], WandbSettings(project="tests", entity="lab", exit_wait_s=2.0)) as told:
        time.sleep(2.5)  # time enough to try again
    assert [kind for kind, _ in told] == ["gone"]
    assert f"sync {path} --to wandb" in told[0][1]["sync"]
    server.manner = "ok"
    server.start() if manner == "gone" else None
    monkeypatch.setattr(client, "CONNECT_S", 30.0)
    assert synced(tmp_path, path) == 0
    assert as_received(server, path) == as_sent(path)


@pytest.mark.parametrize("manner", ["gone", "reset", "500"])
def test_a_server_that_dies_in_the_middle_and_comes_back_has_every_row_once(server, tmp_path, manner):
    path, rows = new_run(tmp_path / "runs"), metrics_rows(count=30)
    with mirrored([path]):
        write(path, rows[:10], evaluation_rows(count=2))
        wait_for(lambda: path.name in server.runs)
        server.stop() if manner == "gone" else setattr(server, "manner", manner)
        write(path, rows[10:20])
        time.sleep(1.0)
        server.manner = "ok"
        server.start() if manner == "gone" else None
        write(path, rows[20:], [evaluation_rows(count=16)[-1]])
        end(path)
    synced(tmp_path, path)
    assert as_received(server, path) == as_sent(path) and len(as_sent(path)) == 33


def synced(root, *paths, to="wandb"):
    names = [path.name for path in paths]
    return review(["sync", *names, "--runs-dir", str(root / "runs"), "--no-cache", "--to", to])


def wait_for(what, seconds=90):
    until = time.monotonic() + seconds
    while not what():
        if time.monotonic() > until:
            pytest.fail(f"still not after {seconds} s")
        time.sleep(0.02)


def test_sync_sends_what_is_lacking_wherever_it_was_stopped_before(server, tmp_path, capsys):
    path = make_run(tmp_path / "runs", rows=metrics_rows(count=40))
    points = RowFollower(path).rest()
    for known in (7, 8, 30):
        connection = client.Connection(path, SETTINGS, 90.0)
        connection.send(points[:known])
        connection.abandon()  # and nothing is written down
    server.manner = "500"
    assert review_with_little_patience(tmp_path, path) == 1 and "W&B is not there" in capsys.readouterr().err
    server.manner = "ok"
    project = ["--project", "tests", "--entity", "lab"]
    command = ["sync", path.name, "--runs-dir", str(tmp_path / "runs"), "--no-cache", "--to", "wandb", *project]
    assert review(command) == 0 and "15 of 45 rows sent" in capsys.readouterr().out
    assert as_received(server, path) == as_sent(path)
    before = len(server.requests)
    assert review(command) == 0 and "was there already" in capsys.readouterr().out
    assert len(server.requests) == before, "it asked, though it knew"


def test_sync_asks_the_server_whether_it_has_everything(server, tmp_path, monkeypatch):
    """A server that says yes and loses the rows is asked again, and given them again."""
    path, stream, lost = make_run(tmp_path), server.stream, []

    def forgetful(name, body):
        if not lost and "wandb-history.jsonl" in (body.get("files") or {}):
            lost.append(body["files"].pop("wandb-history.jsonl"))
        return stream(name, body)

    monkeypatch.setattr(server, "stream", forgetful)
    client.fill(path, RowFollower(path).rest(), SETTINGS, 90.0)
    assert lost and as_received(server, path) == as_sent(path)


def review_with_little_patience(root, path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "CONNECT_S", 1.0)
        return review(["sync", path.name, "--runs-dir", str(root / "runs"), "--no-cache", "--to", "wandb"])


def test_two_processes_never_mirror_one_run_at_once(server, tmp_path):
    path = make_run(tmp_path)
    first = client.Connection(path, SETTINGS, 90.0)
    with pytest.raises(client.Busy):
        client.Connection(path, SETTINGS, 90.0)
    first.abandon()


def test_a_run_that_goes_on_at_once_waits_for_the_process_beside_its_first_part(server, tmp_path):
    path = make_run(tmp_path)
    first = client.Connection(path, SETTINGS, 90.0)
    with mirrored([path]):
        threading.Timer(0.5, first.abandon).start()
    assert as_received(server, path) == as_sent(path) and marked(path, "wandb")["complete"]


def test_offline_files_are_read_back_by_wandb_itself(server, tmp_path):
    path = make_run(tmp_path, rows=[*metrics_rows(), {"step": 1100, "time": 20.0, "loss/critic": float("nan")}])
    with mirrored([path], WandbSettings(mode="offline", project="tests")) as told:
        pass
    (file,) = (path / "wandb").glob("offline-run-*/*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    answer = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    records = [json.loads(line) for line in answer.splitlines()]
    rows = [each["history"]["item"] for each in records if each["type"] == "history"]
    ours = [{"step": p.step, "time": p.time} | p.values for p in RowFollower(path).rest()]
    assert len(rows) == len(ours) == 16 and not told and not server.requests
    for row, own in zip(rows, ours, strict=True):
        for name, value in own.items():
            np.testing.assert_equal(row[name] if row[name] != "NaN" else float("nan"), value)


def test_offline_files_become_a_run_directory_again(server, tmp_path, capsys):
    rows = [*metrics_rows(), {"step": 1100, "time": 20.0, "loss/critic": float("nan")}]
    path = make_run(tmp_path / "runs", rows=rows)
    with mirrored([path], WandbSettings(mode="offline", project="tests")):
        pass
    assert review(["import", str(path / "wandb"), "--runs-dir", str(tmp_path / "made"), "--algo", "ddpg"]) == 0
    (made,) = (tmp_path / "made").glob("*/*")
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        np.testing.assert_equal(list(read_rows(made / name)), list(read_rows(path / name)))
    assert "11 rows, 5 evaluations" in capsys.readouterr().out
    (tmp_path / "broken.wandb").write_bytes(b"nothing of the kind")
    assert review(["import", str(tmp_path / "broken.wandb"), "--runs-dir", str(tmp_path / "made")]) == 1
    assert "W&B cannot read it" in capsys.readouterr().err


def test_the_process_beside_a_run_ends_in_time_though_the_server_hangs(server, tmp_path, caplog):
    server.manner, path, shown = "hang", make_run(tmp_path), []
    beside = WandbProcess([path], WandbSettings(exit_wait_s=1.0), shown.append)
    wait_for(lambda: server.requests)
    beside.close()  # returns though no request is answered: the server hangs until it is told otherwise
    assert server.manner == "hang" and not server.runs
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == ["W&B has not taken every row"]
    beside.close()
    assert len(list(read_rows(path / "metrics.jsonl"))) == 10 and not shown


@pytest.mark.parametrize("python", ["/bin/false", "/nowhere/python"])
def test_a_process_that_cannot_work_is_a_warning(tmp_path, monkeypatch, caplog, python):
    monkeypatch.setattr(sys, "executable", python)
    beside = WandbProcess([make_run(tmp_path)], SETTINGS, print)
    beside.close()
    (record,) = caplog.records
    assert "W&B is not there" in record.getMessage() and "rlresearch-review sync" in record.getMessage()


def test_a_process_that_is_killed_is_told_and_costs_nothing_else(tmp_path, caplog):
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = set(children.read_text().split())
    process = WandbProcess([tmp_path], WandbSettings(exit_wait_s=5.0), print)
    (own,) = set(children.read_text().split()) - before
    os.kill(int(own), signal.SIGKILL)
    while (stat := Path(f"/proc/{own}/stat")).exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX":
        time.sleep(0.01)
    process.close()
    process.close()
    assert "W&B is not there: its process ended with code -9" in caplog.text and "sync" in caplog.text


def test_the_process_beside_a_run_sends_everything_though_its_parent_was_killed(server, tmp_path):
    path = make_run(tmp_path, status="running")
    code = (
        "import os, sys, pathlib; from rlresearch.loggers.wandb.settings import WandbSettings; "
        "from rlresearch.loggers.wandb.supervisor import WandbProcess; "
        "WandbProcess([pathlib.Path(sys.argv[1])], WandbSettings(entity='lab', exit_wait_s=90), print); "
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=False, timeout=30)
    wait_for(lambda: server.runs.get(path.name, {}).get("exit_code") is not None)
    assert server.runs[path.name]["exit_code"] == 1 and as_received(server, path) == as_sent(path)


def test_tensorboard_has_the_rows_at_their_times_and_a_resumed_run_has_none_twice(tmp_path):
    path = make_run(tmp_path / "runs", rows=metrics_rows(count=6), evaluations=[])
    board = TensorBoard(path)
    file = JsonLines(path / "metrics.jsonl")
    for row in metrics_rows(count=8)[6:]:
        file.write(row)
        board.metrics(row)
    file.close()
    write(path, [], evaluation_rows())
    board.evaluation({})
    board.close()
    first = in_tensorboard(path)
    assert first == expected_in_tensorboard(path) and len(first) == 8 * 4 + 5 * 4
    cut(path, {"metrics": 0, "evaluations": 0})
    write(path, metrics_rows(count=8), evaluation_rows())
    (file,) = (path / "tensorboard").iterdir()
    file.rename(file.with_name("events.out.tfevents.1.elsewhere"))
    TensorBoard(path).close()
    assert in_tensorboard(path) == first
    assert "algo:" in next((path / "tensorboard").iterdir()).read_bytes().decode(errors="replace")


def in_tensorboard(path):
    (file,) = (path / "tensorboard").iterdir()
    return {(each.tag, each.step, round(each.wall_time, 2)): np.float32(each.value) for each in tfevents.scalars(file)}


def expected_in_tensorboard(path):
    began = client.started(path)
    return {
        (name, p.step, round(began + p.time, 2)): np.float32(value)
        for p in RowFollower(path).rest()
        for name, value in p.values.items()
        if isinstance(value, int | float)
    }


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"project": "a/b"}, r"logger.wandb.project=a/b: must be a name without '/'"),
        ({"mode": "onlin"}, r"logger.wandb.mode=onlin: must be one of online, offline; did you mean 'online'\?"),
        ({"exit_wait_s": -1}, r"logger.wandb.exit_wait_s=-1: must be a number from 0 to 3600"),
        ({"tags": ["x" * 65]}, r"logger.wandb.tags=.*: each must have 1 to 64 characters"),
        ({"entity": ""}, r"logger.wandb.entity='': must have 1 to 128 characters"),
        ({"projct": "x"}, r"logger.wandb.projct=x: .* did you mean 'project'"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(settings, said):
    with pytest.raises(ConfigError, match=said):
        make(WandbSettings, settings, "logger.wandb")


COMPOSED = [
    ([], 1000, "auto", False, None),
    (["logger=offline"], 1000, "auto", False, None),
    (["logger=quiet"], 1000, "none", False, None),
    (["logger=console"], 1000, "plain", False, None),
    (["logger=none"], None, "none", False, None),
    (["logger=tensorboard", "logger.every_steps=10"], 10, "auto", True, None),
    (["logger=[wandb,tensorboard]", "logger.wandb.project=x"], 1000, "auto", True, WandbSettings(project="x")),
    (["logger=[offline,wandb,quiet]", "logger.wandb.tags=[a,b]"], 1000, "none", False, WandbSettings(tags=("a", "b"))),
]


@pytest.mark.parametrize(("words", "every", "console", "board", "wandb"), COMPOSED)
def test_loggers_are_chosen_by_name_one_or_several(words, every, console, board, wandb):
    made = plan(compose(words).config).logger
    assert (made.every_steps, made.console, made.tensorboard, made.wandb) == (every, console, board, wandb)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["logger=wandbb"], "logger=wandbb: there is no such option; did you mean 'wandb'"),
        (["logger=[wandb,tensorbord]"], "did you mean 'tensorboard'"),
        (["logger=wandb", "logger.wandb.mod=offline"], "did you mean 'logger.wandb.mode'"),
    ],
)
def test_loggers_that_are_not_there_are_refused(words, said):
    with pytest.raises(ConfigError, match=said):
        plan(compose(words).config)


@pytest.mark.parametrize("words", [["logger=[wandb,tensorboard]"], ["logger=wandb"], ["logger=quiet"]])
def test_a_run_that_goes_on_may_have_other_loggers(words):
    (change,) = parse_changes(words, None, SAFE_GROUPS)
    assert change.settings == compose(words).config["logger"]


def test_sync_takes_a_path_from_anywhere(server, tmp_path, monkeypatch, capsys):
    path = make_run(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert review(["sync", str(path), "--to", "wandb", "--entity", "lab"]) == 0
    assert as_received(server, path) == as_sent(path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["latest"], "--to"),
        (["--to", "wandb"], "name the runs"),
        (["latest", "--to", "wandbb"], "did you mean 'wandb'"),
        (["latest", "--to", "wandb", "--project", "a/b"], "must be a name without '/'"),
    ],
)
def test_a_wrong_sync_is_one_line(tmp_path, capsys, words, said):
    make_run(tmp_path / "runs")
    assert review(["sync", *words, "--runs-dir", str(tmp_path / "runs"), "--no-cache"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_sync_leaves_a_run_alone_that_is_still_running(tmp_path, capsys):
    make_run(tmp_path / "runs", status="running")
    assert review(["sync", "latest", "--runs-dir", str(tmp_path / "runs"), "--no-cache", "--to", "tensorboard"]) == 1
    assert "is still running" in capsys.readouterr().err


def less(directory, monkeypatch, configured="online", files=None, **variables):
    """What W&B gets of a run: the mode, or None for nothing; and why it is less than configured."""
    monkeypatch.chdir(directory)
    for name in ("WANDB_MODE", "WANDB_DISABLED", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(directory / "home"))
    for name, content in (files or {}).items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings, why = allowed(WandbSettings(mode=configured))
    return settings and settings.mode, why


OFFLINE, NOTHING = "W&B is offline, as {} says", "W&B gets nothing of this run, as {} says"


@pytest.mark.parametrize(
    "configured, variables, mode, why",
    [
        ("online", {}, "online", None),
        ("online", {"WANDB_MODE": "online"}, "online", None),
        ("online", {"WANDB_MODE": "offline"}, "offline", OFFLINE.format("WANDB_MODE=offline")),
        ("online", {"WANDB_MODE": "dryrun"}, "offline", OFFLINE.format("WANDB_MODE=dryrun")),
        ("online", {"WANDB_MODE": "DISABLED"}, None, NOTHING.format("WANDB_MODE=DISABLED")),
        ("online", {"WANDB_DISABLED": "true"}, None, NOTHING.format("WANDB_DISABLED=true")),
        ("online", {"WANDB_DISABLED": "1", "WANDB_MODE": "online"}, None, NOTHING.format("WANDB_DISABLED=1")),
        ("online", {"WANDB_DISABLED": "false"}, "online", None),
        ("offline", {"WANDB_MODE": "online"}, "offline", None),
        ("offline", {"WANDB_MODE": "offline"}, "offline", None),
        ("offline", {"WANDB_MODE": "disabled"}, None, NOTHING.format("WANDB_MODE=disabled")),
    ],
)
def test_wandb_gets_the_least_that_configuration_and_environment_ask_for(
    configured, variables, mode, why, tmp_path, monkeypatch
):
    assert less(tmp_path, monkeypatch, configured, **variables) == (mode, why)


@pytest.mark.parametrize("file", ["wandb/settings", ".wandb/settings", "home/settings"])
def test_what_wandbs_own_commands_have_set_is_heard(file, tmp_path, monkeypatch):
    offline, disabled = {file: "[default]\nmode = offline\n"}, {file: "[default]\ndisabled = true\n"}
    assert less(tmp_path, monkeypatch, files=offline)[0] == "offline"
    assert less(tmp_path, monkeypatch, files=offline, WANDB_MODE="online")[0] == "online"
    assert less(tmp_path, monkeypatch, files=disabled)[0] is None
    assert less(tmp_path, monkeypatch, files={file: "[default]\nmode = what\n"})[0] == "online"
    assert less(tmp_path, monkeypatch, files={file: "nothing [of the kind"})[0] == "online"


def test_a_mode_that_wandb_does_not_have_is_told_before_the_run(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="WANDB_MODE=ofline: there is no such mode; did you mean 'offline'"):
        less(tmp_path, monkeypatch, WANDB_MODE="ofline")


def test_nothing_goes_out_where_nothing_may(server, tmp_path, monkeypatch):
    said, path = [], make_run(tmp_path / "runs")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert start_wandb([path], SETTINGS, said.append) is None
    assert said == ["W&B gets nothing of this run, as WANDB_MODE=disabled says"]
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert review(["sync", str(path), "--to", "wandb"]) == 2
    beside = start_wandb([path], SETTINGS, said.append)
    beside.close()
    assert said[1:] == ["W&B is offline, as WANDB_MODE=offline says"]
    assert marked(path, "wandb")["mode"] == "offline" and not server.runs


@pytest.mark.slow
def test_without_a_key_the_run_goes_on_and_says_what_is_missing(server, tmp_path, monkeypatch, caplog):
    """pytest -m slow -k without_a_key tests/loggers/test_wandb.py"""
    monkeypatch.delenv("WANDB_API_KEY")
    beside = WandbProcess([make_run(tmp_path)], SETTINGS, print)
    wait_for(lambda: caplog.records)
    beside.close()
    (record,) = caplog.records
    assert "W&B is not there" in record.getMessage() and "API key" in record.getMessage()


@pytest.mark.slow
def test_a_run_that_was_killed_and_goes_on_has_the_same_rows_in_wandb_as_in_its_files(server, tmp_path):
    """pytest -m slow -k goes_on_has tests/loggers/test_wandb.py"""
    words = ["algo=sarsa", "env=cliff_walking", "logger=[wandb,tensorboard,quiet]", "logger.wandb.entity=lab"]
    words += ["logger.wandb.project=tests", "logger.every_steps=500", "eval.every_steps=1000", "eval.episodes=2"]
    words += ["eval.final_episodes=2", "checkpoint.every_steps=1500", "total_steps=2000000"]
    words += ["logger.wandb.exit_wait_s=300"]  # on a machine that has other things to do
    training = subprocess.Popen([sys.executable, "-m", "rlresearch", *words, f"runs_dir={tmp_path}"])
    evaluations = lambda: [each.read_bytes() for each in tmp_path.glob("*-*/*/evaluations.jsonl")]  # noqa: E731
    try:
        wait_for(lambda: any(content.count(b"\n") > 9 for content in evaluations()), 400)
    finally:
        training.kill()
        training.wait()
    (path,) = tmp_path.glob("*-*/*")
    before = len(as_sent(path))
    assert main([f"resume={path}", "total_steps=30000"]) == 0
    # What was cut off and written again is there as it was first; only times can tell.
    sent, received = ([without_times(row) for row in rows] for rows in (as_sent(path), as_received(server, path)))
    assert received == sent and len(sent) == 90 > before
    assert as_received(server, path)[before:] == as_sent(path)[before:]
    assert in_tensorboard(path) == expected_in_tensorboard(path)
    assert marked(path, "wandb")["complete"] and server.runs[path.name]["exit_code"] == 0
