"""The files are the truth and must be written; every mirror may break."""

import logging
import math
from pathlib import Path

import pytest

from rlresearch.errors import RunError
from rlresearch.loggers.composite import CompositeLogger
from rlresearch.loggers.file_logger import FileLogger
from rlresearch.storage.jsonl import read_rows
from rlresearch.storage.run_directory import RunDirectory


class Mirror:
    """Remembers what it was told, and raises where asked to."""

    def __init__(self, fails_in=()):
        self.told, self.fails_in = [], fails_in

    def _tell(self, what):
        self.told.append(what)
        if what in self.fails_in:
            raise OSError("no network")

    def metrics(self, row):
        self._tell("metrics")

    def evaluation(self, row):
        self._tell("evaluation")

    def finish(self, summary):
        self._tell("finish")

    def close(self):
        self._tell("close")


@pytest.fixture
def run(tmp_path):
    with RunDirectory.create(tmp_path, "ddpg", "pendulum", 0) as created:
        yield created


def test_offline_writes_rows_with_step_and_time(run):
    offline = FileLogger(run)
    offline.metrics({"train/return": math.nan, "step": 1.0})
    offline.metrics({"step": 2, "time": 0.5, "train/return": -3.0})
    offline.evaluation({"step": 2, "returns": [1.0, 2.0], "lengths": [200, 200]})
    offline.close()
    first, second = read_rows(run.path / "metrics.jsonl")
    assert list(first) == ["step", "time", "train/return"] and isinstance(first["step"], int)
    assert 0 <= first["time"] < 60 and math.isnan(first["train/return"])
    assert second == {"step": 2, "time": 0.5, "train/return": -3.0}
    (evaluation,) = read_rows(run.path / "evaluations.jsonl")
    assert (evaluation["returns"], evaluation["lengths"]) == ([1.0, 2.0], [200, 200])


def test_a_row_without_a_step_is_refused(run):
    with pytest.raises(KeyError, match="step"):
        FileLogger(run).metrics({"train/return": 1.0})


def test_finish_records_how_the_run_ended(run):
    for_the_screen = {"next": ["type this"], "run_directory": "x"}
    FileLogger(run).finish({"total_steps": 9, "final_evaluation": {"mean": 1.0}} | for_the_screen)
    recorded = run.recorded()
    assert (recorded["status"], recorded["total_steps"], recorded["final_evaluation"]) == ("finished", 9, {"mean": 1.0})
    assert recorded["finished_at"] >= recorded["started_at"] and recorded["wall_time_s"] >= 0
    assert "next" not in recorded and "run_directory" not in recorded


def test_a_failed_run_is_recorded_as_failed_with_its_reason(run):
    reason = {"kind": "RunError", "environment": "pendulum", "step": 3, "error": "boom"}
    FileLogger(run).finish({"status": "failed", "reason": reason})
    assert (run.recorded()["status"], run.recorded()["reason"]) == ("failed", reason)


@pytest.mark.parametrize("call", ["metrics", "evaluation", "finish", "close"])
def test_a_failing_mirror_stops_neither_the_others_nor_the_run(run, call, caplog):
    broken, sound = Mirror(fails_in=[call]), Mirror()
    several = CompositeLogger([broken, FileLogger(run), sound])
    with caplog.at_level(logging.WARNING, logger="rlresearch"):
        several.metrics({"step": 1})
        several.evaluation({"step": 1, "returns": [], "lengths": []})
        several.finish({})
        several.close()
    assert sound.told == ["metrics", "evaluation", "finish", "close"]
    assert len(list(read_rows(run.path / "metrics.jsonl"))) == 1 and run.recorded()["status"] == "finished"
    assert [record.getMessage().split(".")[0] for record in caplog.records] == ["Mirror stopped: OSError: no network"]
    assert broken.told[-1] == "close"


def test_a_broken_mirror_is_not_tried_again_but_closed(run):
    broken = Mirror(fails_in=["metrics"])
    several = CompositeLogger([broken])
    several.metrics({"step": 1})
    several.metrics({"step": 2})
    several.close()
    assert broken.told == ["metrics", "close"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's always full device")
def test_losing_the_truth_is_an_error_after_the_mirrors_had_their_turn(run):
    (run.path / "metrics.jsonl").symlink_to("/dev/full")
    mirror = Mirror()
    several = CompositeLogger([FileLogger(run), mirror])
    with pytest.raises(RunError, match=r"metrics\.jsonl"):
        several.metrics({"step": 1})
    assert mirror.told == ["metrics"]


def test_interrupting_passes_through_a_mirror(run):
    class Interrupted(Mirror):
        def metrics(self, row):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CompositeLogger([Interrupted()]).metrics({"step": 1})


def test_offline_may_be_closed_again(run):
    offline = FileLogger(run)
    offline.close()
    offline.close()
