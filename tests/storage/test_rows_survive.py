"""What a run has written stays: through kills, full disks, and readers who look while it writes."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import without_xla

from rlresearch.errors import RunError
from rlresearch.loggers import base
from rlresearch.loggers.composite import CompositeLogger
from rlresearch.loggers.file_logger import FileLogger
from rlresearch.review.runs import reader
from rlresearch.storage.jsonl import read_rows
from rlresearch.storage.run_directory import RunDirectory

ROOT = Path(__file__).parents[2]

# Python that never loads TensorFlow, so that 50 writers can be forked in about a second.
KILLS = """
import json, os, random, signal, sys, time
from rlresearch.loggers.file_logger import FileLogger
from rlresearch.storage.jsonl import read_rows
from rlresearch.storage.run_directory import RunDirectory
draw, root, lost, torn, total = random.Random(0), sys.argv[1], 0, 0, 0
for trial in range(50):
    run = RunDirectory.create(root, "ddpg", "pendulum", trial)
    ours, theirs = os.pipe()
    writer = os.fork()
    if writer == 0:
        offline, step = FileLogger(run), 0
        while True:
            step += 1
            offline.metrics({"step": step, **{f"loss/part{i}": step / 7 for i in range(draw.randint(1, 40))}})
            if step % 10 == 0:
                offline.evaluation({"step": step, "returns": [step] * draw.randint(1, 500), "lengths": [1]})
            os.write(theirs, step.to_bytes(4, "big"))
    os.read(ours, 4)
    time.sleep(draw.random() * 0.02)
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    os.close(theirs)
    told = b"\\0\\0\\0\\1"
    while part := os.read(ours, 1 << 16):
        told += part
    acknowledged = int.from_bytes(told[-4:], "big")
    rows, evaluations = (list(read_rows(run.path / f"{name}.jsonl")) if (run.path / f"{name}.jsonl").exists() else []
                         for name in ("metrics", "evaluations"))
    lost += len(rows) < acknowledged or [row["step"] for row in rows] != list(range(1, len(rows) + 1))
    lost += [row["step"] for row in evaluations][: acknowledged // 10] != list(range(10, acknowledged + 1, 10))
    torn += any("loss/part0" not in row for row in rows)
    total += acknowledged
    run.close()
print(json.dumps({"lost": lost, "torn": torn, "acknowledged": total}))
"""

READERS = """
import json, os, random, sys, time
from rlresearch.loggers.tail import RowFollower
from rlresearch.review.runs import reader
from rlresearch.storage.jsonl import JsonLines, read_rows
from rlresearch.storage.run_directory import RunDirectory
run = RunDirectory.create(sys.argv[1], "ddpg", "pendulum", 0)
file, count = JsonLines(run.path / "metrics.jsonl"), 3000
writer = os.fork()
if writer == 0:
    draw = random.Random(0)
    for step in range(1, count + 1):
        values = {f"loss/part{i}": step for i in range(draw.randint(1, 60))}
        file.write({"step": step, **values, "loss/last": len(values)})
    os._exit(0)
wrong, looks, follower, followed = [], 0, RowFollower(run.path), []
whole = lambda row: row.get("loss/last") == sum(name.startswith("loss/part") for name in row)
own = os.fork()  # of the two readers one goes on in this process, one in the child
while True:
    gone = own and os.waitpid(writer, os.WNOHANG)[0]
    rows = list(read_rows(run.path / "metrics.jsonl")) if own else reader.json_rows(run.path / "metrics.jsonl")
    wrong += [row for row in rows if not whole(row)]
    wrong += [0] * ([row["step"] for row in rows] != list(range(1, len(rows) + 1)))
    followed += follower.so_far()
    looks += 1
    if gone or (not own and len(rows) == count):
        break
followed += follower.rest()
wrong += [0] * ([point.step for point in followed] != list(range(1, count + 1)))
if not own:
    os._exit(1 if wrong else 0)
print(json.dumps({"wrong": len(wrong), "other": os.waitpid(own, 0)[1], "looks": looks}))
"""


def ran(code, folder):
    command = [sys.executable, "-c", code, str(folder)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def test_fifty_kills_lose_no_row_that_was_acknowledged(tmp_path):
    told = ran(KILLS, tmp_path)
    assert (told["lost"], told["torn"]) == (0, 0) and told["acknowledged"] > 50


def test_two_readers_while_a_run_writes_never_see_a_torn_row(tmp_path):
    told = ran(READERS, tmp_path)
    assert (told["wrong"], told["other"]) == (0, 0) and told["looks"] > 1


@pytest.mark.parametrize("kind", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_is_full_is_named_and_earlier_rows_stay_readable(tmp_path, monkeypatch, kind):
    write, left = os.write, [25]

    def full(file, content):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(kind, os.strerror(kind))
        return write(file, content)

    with RunDirectory.create(tmp_path, "ddpg", "pendulum", 0) as run:
        offline = CompositeLogger([FileLogger(run)])
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(RunError, match=rf"metrics\.jsonl cannot be written: {os.strerror(kind)}"):
            for step in range(100):
                offline.metrics({"step": step, "loss/critic": 1.0})
        monkeypatch.undo()
        assert [row["step"] for row in read_rows(run.path / "metrics.jsonl")] == list(range(25))
        assert len(reader.json_rows(run.path / "metrics.jsonl")) == 25


@pytest.mark.slow
def test_a_run_on_a_disk_that_fills_up_ends_with_the_reason(tmp_path, monkeypatch, capsys):
    """A real run: the fifth row finds the disk full."""
    from rlresearch.cli.main import main

    write, rows = base.JsonLines.write, [0]

    def full(self, row):
        rows[0] += 1
        if rows[0] == 5:
            raise RunError(f"{self.path} cannot be written: {os.strerror(errno.ENOSPC)}")
        write(self, row)

    monkeypatch.setattr(base.JsonLines, "write", full)
    words = ["algo=sarsa", "env=frozen_lake", "total_steps=2000", "logger=quiet", "logger.every_steps=100"]
    with without_xla():
        assert main([*words, "eval=final", "checkpoint=none", f"runs_dir={tmp_path}"]) == 1
    (path,) = tmp_path.glob("*/*")
    assert "metrics.jsonl cannot be written: No space left on device" in capsys.readouterr().err
    record = RunDirectory(path).recorded()
    assert (record["status"], record["reason"]["step"]) == ("failed", 500)
    assert "No space left" in record["reason"]["error"]
    assert [row["step"] for row in read_rows(path / "metrics.jsonl")] == [100, 200, 300, 400]
