"""The run directory is the truth of a run: unique, whole at every instant, and without secrets."""

import errno
import itertools
import json
import logging
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from rlresearch.errors import ConfigError, RunError
from rlresearch.storage import run_directory
from rlresearch.storage.jsonl import JsonLines, read_rows
from rlresearch.storage.provenance import provenance
from rlresearch.storage.redaction import redacted
from rlresearch.storage.run_directory import RunDirectory, atomic_write


@pytest.fixture
def run(tmp_path):
    with RunDirectory.create(tmp_path, "ddpg", "pendulum", 0) as created:
        yield created


@pytest.fixture
def frozen_clock(monkeypatch):
    monkeypatch.setattr(run_directory, "utc_now", lambda: datetime(2026, 11, 21, 11, 4, 56, tzinfo=UTC))


def test_two_runs_never_share_a_directory_even_at_the_same_instant(tmp_path, frozen_clock, monkeypatch):
    # 256 random parts for 200 runs: most of them collide at first.
    token_hex = run_directory.secrets.token_hex
    monkeypatch.setattr(run_directory.secrets, "token_hex", lambda size: token_hex(1 if size == 3 else size))

    def create(_):
        with RunDirectory.create(tmp_path, "ddpg", "pendulum", 0) as created:
            return created.path

    with ThreadPoolExecutor(8) as threads:
        paths = list(threads.map(create, range(200)))
    assert len(set(paths)) == 200
    assert sorted((tmp_path / "2026-11-21").iterdir()) == sorted(paths)


def test_names_are_dated_and_safe(tmp_path, frozen_clock):
    with RunDirectory.create(tmp_path, "ddpg", "ALE/Pong-v5 ../x", 3) as created:
        assert created.path.parent == tmp_path / "2026-11-21"
        assert created.path.name[:-6] == "110456_ddpg_ALE-Pong-v5-..-x_s3_"
        assert len(bytes.fromhex(created.path.name[-6:])) == 3


def test_an_unwritable_root_is_one_line_that_names_the_key_the_path_and_the_reason(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ConfigError) as raised:
        RunDirectory.create(tmp_path / "taken", "ddpg", "pendulum", 0)
    message = str(raised.value)
    assert "runs_dir" in message and str(tmp_path / "taken") in message and "Not a directory" in message
    assert "\n" not in message


def test_a_new_run_has_every_field_and_is_running(run):
    recorded = run.recorded()
    assert set(recorded) == set(run_directory.FIELDS)
    assert (recorded["status"], recorded["schema_version"], recorded["pid"]) == ("running", 1, os.getpid())
    assert datetime.fromisoformat(recorded["started_at"]).utcoffset().total_seconds() == 0


def test_record_merges_and_keeps_nan(run):
    run.record(total_steps=5)
    run.record(status="finished", final_evaluation={"mean": math.nan, "std": math.inf})
    recorded = run.recorded()
    assert (recorded["total_steps"], recorded["status"], recorded["algo"]) == (5, "finished", "ddpg")
    assert math.isnan(recorded["final_evaluation"]["mean"]) and recorded["final_evaluation"]["std"] == math.inf
    json.loads((run.path / "run.json").read_text(), parse_constant=pytest.fail)  # strict JSON: no bare NaN


def test_an_unknown_status_is_refused(run):
    with pytest.raises(ValueError, match="'done'"):
        run.record(status="done")


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_failed_write_leaves_the_old_run_json_and_no_other_file(run, monkeypatch, call):
    before = (run.path / "run.json").read_bytes()
    files = sorted(run.path.iterdir())

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_directory.os, call, refuse)
    with pytest.raises(RunError, match=r"run\.json.*No space left"):
        run.record(total_steps=5)
    assert (run.path / "run.json").read_bytes() == before
    assert sorted(run.path.iterdir()) == files


def test_config_is_written_as_given(run):
    atomic_write(run.path / "config.yaml", "algo: ddpg\nname: ±\n")
    assert (run.path / "config.yaml").read_text(encoding="utf-8") == "algo: ddpg\nname: ±\n"


def test_log_is_in_utc_and_ends_with_the_run(run, monkeypatch):
    monkeypatch.setattr(
        run_directory.logging.Formatter, "converter", lambda seconds: time.gmtime(seconds + 9 * 3600)
    )  # Tokyo
    logger = logging.getLogger("rlresearch.anything")
    logger.info("kept")
    run.close()
    run.close()
    logger.info("too late")
    line = (run.path / "log.txt").read_text()
    assert line.endswith("Z INFO rlresearch.anything: kept\n") and line.count("\n") == 1
    assert abs((datetime.now(UTC) - datetime.fromisoformat(line.split()[0])).total_seconds()) < 60
    assert not any(isinstance(handler, run_directory.LogFile) for handler in logging.getLogger("rlresearch").handlers)


def test_nothing_is_written_outside_the_run_directory(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with RunDirectory.create(tmp_path / "runs", "ddpg", "pendulum", 0) as created:
        created.record(**provenance(["train"], []))
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and created.path not in path.parents]
    assert outside == []


def test_rows_come_back_with_nan_and_infinity(tmp_path):
    numpy = pytest.importorskip("numpy")
    row = {"step": numpy.int64(3), "a/nan": math.nan, "a/inf": math.inf, "a/minus": numpy.float32(-math.inf)}
    row["a/x"] = 1.5
    rows = JsonLines(tmp_path / "metrics.jsonl")
    rows.write(row)
    rows.write({"step": 4, "returns": numpy.array([1.0, math.nan])})
    rows.close()
    first, second = read_rows(tmp_path / "metrics.jsonl")
    assert math.isnan(first.pop("a/nan")) and math.isnan(second["returns"][1])
    assert first == {"step": 3, "a/inf": math.inf, "a/minus": -math.inf, "a/x": 1.5}
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


@pytest.mark.parametrize("torn", [b'{"step": 2, "a', b'{"step": 2, "a\n', b"\x00\x00\x00", b"\xc3"])
def test_a_torn_last_line_is_left_out_and_the_next_run_writes_after_it(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + torn)
    assert list(read_rows(path)) == [{"step": 1}]
    if not torn.endswith(b"\n"):
        rows = JsonLines(path)
        rows.write({"step": 2})
        rows.close()
        assert list(read_rows(path)) == [{"step": 1}, {"step": 2}]


def test_a_torn_line_longer_than_one_read_is_removed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"returns": [' + b"1.0, " * 50_000)
    JsonLines(path).close()
    assert path.read_bytes() == b'{"step": 1}\n'


def test_a_whole_last_row_without_its_newline_is_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}')
    rows = JsonLines(path)
    rows.write({"step": 2})
    rows.close()
    assert [row["step"] for row in read_rows(path)] == [1, 2]


def test_damage_before_the_last_line_is_an_error_not_a_gap(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 2"):
        list(read_rows(tmp_path / "metrics.jsonl"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RunError, match=r"none\.jsonl.*No such file"):
        list(read_rows(tmp_path / "none.jsonl"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's always full device")
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    rows = JsonLines(tmp_path / "metrics.jsonl")
    with pytest.raises(RunError, match=r"metrics\.jsonl.*No space left"):
        rows.write({"step": 1})


def test_a_short_write_is_an_error_and_leaves_only_whole_rows(tmp_path, monkeypatch):
    rows = JsonLines(tmp_path / "metrics.jsonl")
    rows.write({"step": 1})
    write = os.write
    monkeypatch.setattr(run_directory.os, "write", lambda file, line: write(file, line[:5]))
    with pytest.raises(RunError, match=r"metrics\.jsonl took 5 of"):
        rows.write({"step": 2})
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step":1}\n'


def test_each_row_is_one_write_and_fsync_comes_at_most_once_a_second(tmp_path, monkeypatch):
    writes, syncs, seconds = [], [], itertools.count(0, 0.1)
    write = os.write
    monkeypatch.setattr(run_directory.time, "monotonic", lambda: next(seconds))
    monkeypatch.setattr(run_directory.os, "write", lambda file, line: writes.append(line) or write(file, line))
    monkeypatch.setattr(run_directory.os, "fsync", syncs.append)
    rows = JsonLines(tmp_path / "metrics.jsonl")
    for step in range(50):
        rows.write({"step": step})
    assert len(writes) == 50 and all(line.count(b"\n") == 1 for line in writes)
    assert 2 <= len(syncs) <= 6  # about 5 s went by
    syncs.clear()
    rows.close()
    assert len(syncs) == 1


def test_close_may_be_called_again_and_ends_writing(tmp_path):
    rows = JsonLines(tmp_path / "metrics.jsonl")
    rows.close()
    rows.close()
    with pytest.raises(RunError, match=r"metrics\.jsonl is closed"):
        rows.write({"step": 1})


def test_rows_of_a_killed_process_are_whole(tmp_path):
    code = (
        "import os, sys; from rlresearch.storage.jsonl import JsonLines; rows = JsonLines(sys.argv[1])\n"
        "for step in range(100): rows.write({'step': step})\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "m.jsonl")], check=False)
    assert [row["step"] for row in read_rows(tmp_path / "m.jsonl")] == list(range(100))


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["algo=ddpg", "seed=3"], ["algo=ddpg", "seed=3"]),
        (["logger.api_key=SECRET"], ["logger.api_key=***"]),
        (["++hydra.job.env_set.WANDB_API_KEY=SECRET"], ["++hydra.job.env_set.WANDB_API_KEY=***"]),
        (["--token", "SECRET", "x=1"], ["--token", "***", "x=1"]),
        (["--Password=SE=CRET"], ["--Password=***"]),
        (["logger={project: p, auth_token: SECRET, n: 1}"], ["logger={project: p, auth_token: ***, n: 1}"]),
        (["logger={'secret': 'SEC,RET', n: 1}"], ["logger={'secret': ***, n: 1}"]),
        (["env=keyboard"], ["env=keyboard"]),
    ],
)
def test_values_of_secret_keys_are_never_recorded(given, shown):
    assert redacted(given) == shown
    told = provenance(["train.py", *given], given)
    assert "SEC" not in json.dumps(told) and told["overrides"] == shown


def test_command_can_be_pasted_into_a_shell():
    assert provenance(["train.py", "env={a: 1}"], [])["command"] == "train.py 'env={a: 1}'"


def test_provenance_names_the_commit_and_whether_files_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance([], [])["git"] is None
    (tmp_path / "a.py").write_text("1")
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q"], ["add", "a.py"], [*who, "commit", "-q", "-m", "x"]):
        subprocess.run(["git", *arguments], check=True)
    clean = provenance([], [])["git"]
    (tmp_path / "a.py").write_text("2")
    assert (len(clean["commit"]), clean["dirty"]) == (40, False)
    assert provenance([], [])["git"] == {"commit": clean["commit"], "dirty": True}


def test_a_slow_git_holds_no_run_up(monkeypatch):
    def never(*_, timeout, **__):
        raise subprocess.TimeoutExpired("git", timeout)

    monkeypatch.setattr(subprocess, "run", never)
    assert provenance([], [])["git"] is None


def test_versions_are_known_without_importing_the_packages():
    code = (
        "import sys\n"
        "import rlresearch.storage.provenance\n"
        "import rlresearch.storage.run_directory\n"
        "import rlresearch.loggers.base\n"
        "import rlresearch.loggers.console\n"
        "told = rlresearch.storage.provenance.provenance(['x'], []); assert told['packages']['tensorflow'], told\n"
        "print({name.partition('.')[0] for name in sys.modules} & {'keras', 'numpy', 'rich', 'hydra'})\n"
        "print('tensorflow.python' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["set()", "False"]
