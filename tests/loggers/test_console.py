"""The terminal says what runs, how far it is and how it ended; it never breaks the run nor floods a log."""

import io
import logging
import math
import re

import pytest
import rich.live
from rich.console import Console

from rlresearch.errors import ConfigError
from rlresearch.loggers.console import Display, Progress
from rlresearch.loggers.formatting import duration, number

ROW = {"step": 5000, "train/return": -812.34, "train/episodes": 25, "train/length": 200}
ROW["speed/steps_per_second"] = 6212.4
EVALUATION = {"step": 5000, "returns": [-100.0, -300.0], "lengths": [200, 200]}
SUMMARY = {
    "final_evaluation": {"step": 20000, "mean": -201.4, "std": 80.2, "episodes": 10},
    "total_steps": 20000,
    "wall_time_s": 8.2,
    "training_time_s": 3.3,
    "steps_per_second": 6212.0,
    "run_directory": "runs/2026-11-21/110456_ddpg_pendulum_s0_9f31c2" + "/long" * 10,
    "next": ["python -m rlresearch.review runs"],
}


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def plain(**settings):
    stream, clock = io.StringIO(), Clock()
    return Display("plain", stream=stream, clock=clock, **settings), stream, clock


def rendered(renderable):
    console = Console(width=80, record=True, force_terminal=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def test_auto_is_live_in_a_terminal_and_plain_elsewhere(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    assert Display("auto", stream=Terminal()).kind == "live"
    assert Display("auto", stream=io.StringIO()).kind == "plain"
    monkeypatch.setenv("TERM", "dumb")
    assert Display("auto", stream=Terminal()).kind == "plain"


def test_an_unknown_console_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="'plan'.*auto, live, plain, none; did you mean 'plain'"):
        Display("plan")


def test_none_prints_nothing():
    stream = io.StringIO()
    display = Display("none", stream=stream)
    display.start(["ddpg"], 20000)
    display.metrics(ROW)
    display.evaluation(EVALUATION)
    display.message("x")
    display.finish(SUMMARY)
    display.close()
    assert stream.getvalue() == ""


def test_plain_line_has_every_number():
    display, stream, _ = plain()
    display.start(["ddpg on pendulum", "seed 0"], 20000)
    display.metrics(ROW)
    display.evaluation(EVALUATION)
    display.close()
    assert stream.getvalue().splitlines() == [
        "ddpg on pendulum | seed 0",
        "step 5,000/20,000  25%  6,212 steps/s  return -812.3  eval -200.0 ± 100.0  left 0:02",
    ]


def test_plain_prints_at_most_one_line_in_five_seconds():
    display, stream, clock = plain()
    display.start(["ddpg"], 20000)
    for step in range(1000):
        clock.now = step * 0.02  # 20 s
        display.metrics({**ROW, "step": step})
    display.close()
    assert len(stream.getvalue().splitlines()) == 1 + 3


def test_no_finished_episode_is_a_dash():
    display, stream, _ = plain(every_s=0.0)
    display.start(["ddpg"], 20000)
    display.metrics({"step": 10, "train/return": math.nan})
    assert "step 10/20,000  0%  - steps/s  return -  left -" in stream.getvalue()
    display.close()


def test_plain_has_no_control_characters():
    display, stream, _ = plain()
    display.start(["a\x1b[31mb\rc\td"], 20000)
    display.message("x\x1b]0;title\x07\x9b")
    display.evaluation(EVALUATION)
    display.finish({**SUMMARY, "status": "failed", "reason": {"kind": "RunError", "error": "bad\x1b[2J\nworse"}})
    display.close()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", stream.getvalue())
    assert "RunError: bad [2J worse" in stream.getvalue()


def test_an_ascii_terminal_is_served_too():
    raw = io.BytesIO()
    display = Display("plain", stream=io.TextIOWrapper(raw, encoding="ascii"))
    display.start(["π"], 20000)
    display.evaluation(EVALUATION)
    display.close()
    assert b"eval -200.0 +/- 100.0" in raw.getvalue()


@pytest.mark.parametrize("kind", ["plain", "live"])
def test_the_end_says_result_times_speed_and_what_to_type(kind):
    stream = io.StringIO()
    display = Display(kind, stream=stream, width=80)
    display.start(["ddpg"], 20000)
    display.finish(SUMMARY)
    display.close()
    end = stream.getvalue().rpartition("finished")[2]
    end = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", end)
    for part in ("-201.4 ± 80.2 (10 episodes, step 20,000)", "training 0:03, total 0:08", "6,212 steps/s"):
        assert part in end
    # On a line of their own, unwrapped and unframed, so that they can be copied.
    assert f"run directory  {SUMMARY['run_directory']}\n" in end
    assert "  python -m rlresearch.review runs\n" in end


def test_a_population_shows_mean_over_members_and_its_best_and_worst():
    display, stream, _ = plain()
    members = [{"mean": -100.0}, {"mean": -300.0, "name": "seed 7"}, {"mean": math.nan}]
    display.finish({**SUMMARY, "members": members})
    text = stream.getvalue()
    assert "-200.0 ± 100.0 (3 members, 1 without a number)" in text
    assert re.search(r"best +-100\.0 \(member 0\)", text) and re.search(r"worst +-300\.0 \(member seed 7\)", text)


def test_a_population_without_any_number_still_ends():
    display, stream, _ = plain()
    display.finish({"members": [math.nan, math.nan]})
    assert "- (2 members, 2 without a number)" in stream.getvalue()


def test_a_member_counts_once_however_many_episodes_it_has():
    progress = Progress(Clock(), 10)
    progress.take_evaluation({"step": 1, "returns": [[0.0, 0.0, 0.0], [4.0]]})
    assert "eval 2.0 ± 2.0" in progress.line()
    assert "2 members, step 1" in rendered(progress.panel())


def test_the_panel_fits_80_columns_with_large_numbers():
    progress = Progress(Clock(), 20_000_000)
    for _ in range(2):  # before and after the first numbers
        lines = rendered(progress.panel()).splitlines()
        assert {len(line) for line in lines} == {80} and "…" not in "".join(lines)
        large = {"step": 12_345_678, "train/episodes": 1_284_000, "speed/steps_per_second": 1234567.0}
        progress.take_metrics(ROW | large)
        progress.take_evaluation({"step": 12_000_000, "returns": [-31234.5, -1300.5]})
    text = "\n".join(lines)
    for part in ("61%  12,345,678/20,000,000", "1,234,567 steps/s", "-812.3", "1,284,000 episodes, length 200"):
        assert part in text
    for part in ("left     0:06", "elapsed  0:00", "-16,267.5 ± 14,967.0", "2 episodes, step 12,000,000"):
        assert part in text


def test_live_redraws_by_itself_at_most_eight_times_a_second_and_at_no_row(monkeypatch):
    made = []

    class Still(rich.live.Live):
        """Draws when it is told to."""

        def __init__(self, *arguments, refresh_per_second, **settings):
            made.append(refresh_per_second)
            super().__init__(*arguments, auto_refresh=False, **settings)

    monkeypatch.setattr("rich.live.Live", Still)
    stream = io.StringIO()
    display = Display("live", stream=stream, width=80)
    display.start(["ddpg"], 20000)
    drawn = stream.getvalue().count("training")
    for step in range(2000):
        display.metrics({**ROW, "step": step})
    assert made[0] <= 8 and drawn == stream.getvalue().count("training")
    display.close()  # draws once more
    assert "1,999/20,000" in stream.getvalue()


def test_live_shows_messages_and_warnings_above_the_panel_and_gives_the_cursor_back():
    stream = io.StringIO()
    display = Display("live", stream=stream, width=80)
    display.start(["ddpg [red]"], 20000)
    display.message("saved [bold]x")
    logging.getLogger("rlresearch.loggers").warning("W&B stopped")
    display.close()
    display.close()
    logging.getLogger("rlresearch.loggers").warning("after the end")
    text = stream.getvalue()
    assert "ddpg [red]\n" in text and "saved [bold]x\n" in text and "warning: W&B stopped\n" in text
    assert text.rpartition("warning: W&B stopped")[2].count("training") >= 1
    assert "after the end" not in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1


@pytest.mark.parametrize("kind", ["plain", "live"])
@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("I/O operation on closed file")])
def test_a_terminal_that_goes_away_never_stops_the_run(kind, error):
    class Gone(io.StringIO):
        def write(self, text):
            raise error

    display = Display(kind, stream=Gone(), width=80)
    display.start(["ddpg"], 20000)
    display.metrics(ROW)
    display.evaluation(EVALUATION)
    display.message("x")
    display.finish(SUMMARY)
    display.close()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (3.4, "0:03"), (760, "12:40"), (3723, "1:02:03"), (math.nan, "-"), (math.inf, "-")],
)
def test_durations_read_like_a_clock(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (math.nan, "-"), (-812.34, "-812.3"), (1234.56, "1,234.6"), (0.01234, "0.0123"), (0, "0.0")],
)
def test_numbers_are_short(value, text):
    assert number(value) == text
