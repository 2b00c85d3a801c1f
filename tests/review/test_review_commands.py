"""What a person types and sees: every command on made runs, wrong ones in a line, and TensorFlow never loaded."""

import csv
import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from support.make_runs import evaluation_rows, make_group, make_run

from rlresearch.review import cli
from rlresearch.review.__main__ import main
from rlresearch.review.commands import show


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three groups of six seeds, of which td3 is clearly the best, and a run that failed."""
    folder = tmp_path_factory.mktemp("runs")
    make_group(folder, "ddpg", [-240.0, -250.0, -260.0, -245.0, -255.0, -250.0], started_at="2026-11-01T10:00:00Z")
    make_group(folder, "td3", [-140.0, -150.0, -160.0, -145.0, -155.0, -150.0], started_at="2026-11-02T10:00:00Z")
    make_group(folder, "sac", [-241.0, -251.0, -259.0, -244.0, -256.0, -251.0], started_at="2026-11-03T10:00:00Z")
    failed = make_run(folder, "dqn", "cartpole", 7, "failed", started_at="2026-11-04T10:00:00Z")
    (failed / "log.txt").write_text("2026-11-04T10:00:01Z ERROR rlresearch: failed\nValueError: the sensor was lost\n")
    return folder


@pytest.fixture
def review(root, capsys, monkeypatch, tmp_path):
    """A function that runs a command line on the folder; gives exit code, output and what went to standard error."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words, where=root):
        needs_folder = words and words[0] in cli.COMMANDS and words[0] not in ("metrics",)
        code = main([*words, *(["--runs-dir", str(where)] if needs_folder else [])])
        return code, *capsys.readouterr()

    return run


def _json(review, *words):
    code, out, err = review(*words, "--format", "json")
    assert code == 0, err
    return json.loads(out)


def test_ls_numbers_the_newest_first_and_says_why_a_run_failed(review):
    code, out, _ = review("ls")
    lines = out.splitlines()
    assert code == 0 and len(lines) == 20
    assert re.match(r" *1 .*_dqn_cartpole_s7_.* failed .* the sensor was lost", lines[1])
    assert "_ddpg_pendulum_s0_" in lines[-1]


def test_ls_filters_sorts_limits_and_chooses_columns(review):
    _, out, _ = review("ls", "algo=td3", "final>-150", "--sort=final", "-c", "lr,final", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["final"] for row in rows] == ["-145.0", "-140.0"]
    assert set(rows[0]) == {"#", "name", "optimizer.lr", "final"} and rows[0]["optimizer.lr"] == "0.001"
    assert len(_json(review, "ls", "--limit", "3")) == 3
    assert len(_json(review, "ls", "--since", "2026-11-02", "--status", "finished")) == 12
    everything = _json(review, "ls", "algo=dqn")[0]
    assert everything["reason.error"] == "the sensor was lost" and everything["algo.gamma"] == 0.98


def test_a_number_of_the_listing_names_a_run_afterwards(review):
    review("ls", "algo=td3")
    _, out, _ = review("show", "2", "--json")
    assert json.loads(out)["algo"] == "td3" and json.loads(out)["seed"] == 4


def test_show_tells_why_a_run_failed_and_the_end_of_its_log(review):
    _, out, _ = review("show", "dqn_cartpole")
    assert re.search(r"why +the sensor was lost", out) and "ValueError: the sensor was lost" in out
    _, out, _ = review("show", "td3_pendulum_s0", "--config")
    assert re.search(r"optimizer.lr +0.001", out) and "-140.0 ± 15.8 (4 episodes)" in out and "▁" in out


def test_diff_shows_what_differs_and_nothing_else(review):
    found = {row["key"]: row for row in _json(review, "diff", "ddpg_pendulum_s0", "ddpg_pendulum_s1")}
    assert {"seed", "final", "best"} <= set(found) and not {"algo", "optimizer.lr", "started_at"} & set(found)
    code, out, _ = review("diff", "td3_pendulum_s0", "td3_pendulum_s0")
    assert code == 0 and "no difference" in out


def test_compare_ranks_groups_and_claims_only_what_holds(review):
    made = _json(review, "compare")
    groups = {group["group"]: group for group in made["groups"]}
    assert list(groups)[0] == "td3 pendulum" and len(groups) == 3
    td3 = groups["td3 pendulum"]
    assert td3["value"] == pytest.approx(-150.0) and -160 <= td3["low"] < -150 < td3["high"] <= -140
    assert td3["enough_seeds"] and len(td3["runs"]) == 6
    claims = {(pair["group"], pair["baseline"]): pair["claim"] for pair in made["comparisons"]}
    assert claims == {("ddpg pendulum", "td3 pendulum"): "worse", ("sac pendulum", "td3 pendulum"): "worse"}
    assert made["notes"][0] == "left out: 1 failed (--all takes them in)"
    beside = _json(review, "compare", "--baseline", "ddpg")["comparisons"]
    assert [pair["claim"] for pair in beside] == ["better", "no claim"]


def test_compare_with_lower_is_better_turns_the_order_and_the_claims(review):
    made = _json(review, "compare", "--lower", "--baseline", "ddpg")
    assert [group["group"] for group in made["groups"]][-1] == "td3 pendulum"
    assert {pair["group"]: pair["claim"] for pair in made["comparisons"]}["td3 pendulum"] == "worse"


def test_compare_measures_the_way_to_a_threshold(review):
    made = _json(review, "compare", "algo=td3", "--threshold", "-350")
    assert made["groups"][0]["steps_to_threshold"][0] == 800 and made["groups"][0]["seconds_to_threshold"][0] == 10.0
    assert np.isfinite(made["groups"][0]["steps_to_threshold"]).sum() == 6
    _, out, _ = review("compare", "algo=ddpg", "--threshold", "-100")
    assert "0 of 6  never  never" in out


def test_compare_takes_a_metric_at_a_step(review):
    value = _json(review, "compare", "--metric", "eval/return", "--at", "450")["groups"][0]["value"]
    assert value == pytest.approx(-750.0)
    assert _json(review, "compare", "--metric", "critic", "--at", "500")["groups"][0]["value"] == pytest.approx(0.2)
    made = _json(review, "compare", "--metric", "critic", "--at", "100")
    assert made["groups"][0]["value"] == 1.0


def test_compare_says_that_five_seeds_are_too_few(review, tmp_path):
    make_group(tmp_path / "few", "ddpg", [-1.0, -2.0, -3.0, -4.0, -5.0])
    _, out, _ = review("compare", where=tmp_path / "few")
    assert "5 seeds: too few; the interval goes from worst to best and covers about 93 % (take 6 or more)" in out
    assert "-5.0 to -1.0" in out


def test_compare_across_environments_needs_scores_on_one_scale(review, tmp_path):
    where = tmp_path / "tasks"
    for env, scale in (("pendulum", 1.0), ("cartpole", -1.0)):
        for algo, shift in (("ddpg", 0.0), ("td3", 100.0)):
            make_group(where, algo, [scale * each + shift for each in (-300, -310, -320, -330, -340)], env=env)
    words = ("--across", "env", "--reference", "pendulum=-500,0", "--reference", "cartpole=0,500")
    code, out, err = review("compare", *words, "--format", "json", where=where)
    groups = {group["group"]: group for group in json.loads(out)["groups"]}
    assert set(groups) == {"ddpg", "td3"}
    assert groups["ddpg"]["value"] == pytest.approx(np.mean([180, 320]) / 500, abs=0.05)
    assert groups["td3"]["value"] - groups["ddpg"]["value"] == pytest.approx(0.2)
    assert [len(scores) for scores in groups["td3"]["scores"]] == [5, 5]


def test_returns_of_different_environments_are_not_compared(review, tmp_path):
    make_group(tmp_path / "two", "ddpg", [-150.0] * 2)
    make_group(tmp_path / "two", "dqn", [400.0] * 2, env="cartpole")
    _, out, _ = review("compare", "--format", "json", where=tmp_path / "two")
    assert json.loads(out)["comparisons"] == []


def test_runs_without_a_score_are_counted_and_not_averaged(review, tmp_path):
    make_group(tmp_path / "some", "ddpg", [-150.0] * 6)
    make_run(tmp_path / "some", "ddpg", seed=9, evaluations=[])
    _, out, _ = review("compare", where=tmp_path / "some")
    assert "1 of 7 runs have no such score" in out


def test_table_is_markdown_or_latex_and_its_notes_go_elsewhere(review):
    _, out, err = review("table")
    lines = out.splitlines()
    assert lines[0].startswith("| group") and set(lines[1]) <= set("|-: ") and len(lines) == 5
    assert "left out" in err and "left out" not in out
    _, out, _ = review("table", "--format", "latex")
    assert out.startswith("\\begin{tabular}{lrrrrrrrr}") and "95 \\% interval" in out and "\\bottomrule" in out


@pytest.mark.parametrize("name", ["a.png", "a.svg", "a.pdf"])
def test_plot_writes_a_picture_and_the_same_one_again(review, tmp_path, name):
    pytest.importorskip("matplotlib")
    before = None
    for _ in range(2):
        code, out, err = review("plot", "-o", str(tmp_path / name), "--each", "--title", "a $ and a <b>")
        assert code == 0, err
        content = (tmp_path / name).read_bytes()
        assert before in (None, content) or name.endswith(".pdf")
        before = content
    assert content[:4] in (b"\x89PNG", b"<?xm", b"%PDF") and os.listdir(tmp_path).count(name) == 1


@pytest.mark.parametrize("kind", ["scores", "profile"])
def test_plot_draws_scores_and_profiles(review, tmp_path, kind):
    pytest.importorskip("matplotlib")
    assert review("plot", "--kind", kind, "-o", str(tmp_path / "a.png"))[0] == 0
    assert (tmp_path / "a.png").stat().st_size > 5_000


def test_plot_draws_in_the_terminal(review):
    pytest.importorskip("plotille")
    code, out, err = review("plot", "--smooth", "3")
    assert code == 0 and "c td3 pendulum (6)" in out and "⠀" in out
    assert "td3 pendulum (6): -350.0 (-357.5 to -341.3) at environment steps 1,000" in out


def test_a_band_ends_where_the_first_run_does(review, tmp_path):
    make_group(tmp_path / "cut", "ddpg", [-1.0, -2.0])
    make_run(tmp_path / "cut", "ddpg", seed=5, evaluations=evaluation_rows(-3.0, 3))
    _, out, err = review("plot", "--band", "range", where=tmp_path / "cut")
    assert "2 of 3 runs end" not in err and "1 of 3 runs end early; drawn as far as all go, 600" in err


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(("rows", "count"), [("runs", 19), ("metrics", 190), ("evaluations", 95), ("episodes", 380)])
def test_export_has_every_row(review, tmp_path, rows, count, suffix):
    file = tmp_path / f"x.{suffix}"
    code, out, err = review("export", "--rows", rows, "-o", str(file))
    assert code == 0 and f"({count} rows" in out, err
    if suffix == "csv":
        found = list(csv.DictReader(open(file)))
    else:
        found = pytest.importorskip("pyarrow.parquet").read_table(file).to_pylist()
    assert len(found) == count
    best = [row for row in found if "_td3_pendulum_s0_" in row["run"]]
    column, expected = {
        "runs": ("final", -140.0),
        "metrics": ("loss/critic", 0.1),
        "evaluations": ("eval/return", -140.0),
        "episodes": ("return", -120.0),
    }[rows]
    assert float(best[-1][column]) == pytest.approx(expected)


def test_text_that_a_spreadsheet_would_run_is_quoted(review, tmp_path):
    make_run(tmp_path / "evil", settings={"note": "=HYPERLINK(1)", "other": "+1", "fine": "a=b"})
    review("export", "-o", str(tmp_path / "x.csv"), where=tmp_path / "evil")
    (row,) = csv.DictReader(open(tmp_path / "x.csv"))
    assert (row["note"], row["other"], row["fine"]) == ("'=HYPERLINK(1)", "'+1", "a=b")


def test_control_characters_never_reach_the_terminal(review, tmp_path):
    evil = "\x1b[31mred\x07\x9b2J\u202egnp.exe\u2066"
    where = tmp_path / "evil"
    make_run(where, algo="a", status="failed", settings={"note": evil}, record={"reason": {"error": evil}, "env": evil})
    (next(where.glob("*/*")) / "log.txt").write_text(f"{evil}\n")
    for words in (("ls", "-c", "note,env"), ("show", "latest", "--config"), ("ls", "--format", "markdown")):
        _, out, _ = review(*words, where=where)
        assert not set(out) & set("\x1b\x07\x9b\u202e\u2066"), words
        assert "red" in out


def test_tail_shows_the_newest_rows_and_ends_with_the_run(review):
    code, out, _ = review("tail", "td3_pendulum_s0", "-n", "3", "-c", "loss/critic")
    lines = out.splitlines()
    assert code == 0 and len(lines) == 4 and lines[-1].endswith(": finished")
    assert "eval -140.0 ± 15.8 (4 episodes)" in lines[2] and "loss/critic" in lines[1] and "train/return" not in out


def test_tail_follows_a_run_until_it_ends(review, tmp_path, monkeypatch):
    path = make_run(tmp_path / "busy", status="running")
    from rlresearch.storage.run_directory import RunDirectory

    steps = iter([1100, 1200])

    def meanwhile(_):
        step = next(steps, None)
        with open(path / "metrics.jsonl", "a") as file:
            file.write(f'{{"step":{step},"time":20,"loss/critic":7}}\n' if step else '{"step":1300')
        if step is None:
            RunDirectory(path).record(status="interrupted")

    monkeypatch.setattr(show.time, "sleep", meanwhile)
    _, out, _ = review("tail", "-n", "1", where=tmp_path / "busy")
    assert [line.split("  ")[-1] for line in out.splitlines()[1:]] == ["loss/critic 7.0"] * 2 + [out.splitlines()[-1]]
    assert out.splitlines()[-1].endswith(": interrupted")


WRONG = [
    (["lss"], "lss: there is no such command; did you mean 'ls'?"),
    (["ls", "--lmit", "3"], "did you mean '--limit'?"),
    (["ls", "--format", "jsn"], "did you mean 'json'?"),
    (["ls", "fnal>3"], "did you mean 'final'?"),
    (["ls", "--sort=fnal"], "did you mean 'final'?"),
    (["ls", "-c", "fnal"], "did you mean 'final'?"),
    (["ls", "--status", "finshed"], "did you mean 'finished'?"),
    (["ls", "--since", "yesterday"], "--since=yesterday: must be as in 30m"),
    (["ls", "--limit", "-1"], "-1 must be at least 0"),
    (["show", "nobody"], "nobody: there is no such run"),
    (["show", "td3"], "td3: 6 runs are meant"),
    (["diff", "latest"], "needs two runs"),
    (["compare", "algo=nobody"], "no run to compare"),
    (["compare", "--baseline", "td3 pendlum"], "there is no such group; did you mean 'td3 pendulum'?"),
    (["compare", "--statistic", "iqn"], "did you mean 'iqm'?"),
    (["compare", "--metric", "los/critic"], "did you mean 'loss/critic'?"),
    (["compare", "--across", "env", "--reference", "pendulm=0,1"], "did you mean 'pendulum'?"),
    (["compare", "--reference", "pendulum=1,0"], "LOW must be below HIGH"),
    (["compare", "--at", "5", "--metric", "best"], "leave out --at"),
    (["compare", "--threshold", "x"], "--threshold"),
    (["plot", "-o", "a.gif"], "must end in .png, .svg, .pdf"),
    (["plot", "--metric", "lss/critic"], "did you mean 'loss/critic'?"),
    (["plot", "--size", "6"], "must be WIDTHxHEIGHT"),
    (["plot", "--kind", "profile"], "needs --output=FILE"),
    (["plot", "-o", "nowhere/a.png"], "cannot be written"),
    (["export", "-o", "a.xlsx"], "must end in .parquet or .csv"),
    (["export"], "--output"),
    (["report", "algo=nobody"], "nothing to report"),
    (["metrics", "dpgd"], "did you mean 'ddpg'?"),
    (["rm"], "name the runs"),
    (["rm", "algo=td3"], "nobody to ask here"),
    (["archive", "algo=td3", "-o", "a.zip"], "must end in .tar.gz"),
    (["import", "nowhere"], "there is no such file or folder"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_a_wrong_command_is_one_line_with_the_way_out(review, words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = review(*words)
    assert code == (1 if "cannot be written" in said else 2), err
    assert said in err and len(err.splitlines()) == 1 and err.startswith("rlresearch-review: ")
    assert not out and len(err) < 450


def test_a_folder_that_is_not_there_names_the_option(review, tmp_path):
    code, _, err = review("ls", where=tmp_path / "none")
    assert code == 2 and "--runs-dir=PATH" in err


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name, capsys):
    assert main([name, "--help"]) == 0
    assert f"usage: rlresearch-review {name}" in capsys.readouterr().out


def test_the_overview_names_every_command(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in cli.COMMANDS)


def test_it_starts_without_tensorflow(root, tmp_path):
    """Also where libraries look whether what they plot is a tensor."""
    probe = "import sys; from rlresearch.review.__main__ import main; code = main(sys.argv[1:]); "
    probe += "sys.exit(code or 10 * any(name.startswith('tensorflow.') for name in sys.modules))"
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    for words in (["ls"], ["compare"], ["plot", "-o", str(tmp_path / "a.png")]):
        command = [sys.executable, "-c", probe, *words, "--runs-dir", str(root)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_a_reader_that_leaves_early_is_no_error(root, tmp_path):
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "rlresearch.review", "ls", "--runs-dir", str(root)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        err = process.stderr.read().decode()
    assert "Traceback" not in err and "Error" not in err and process.returncode == 0


@pytest.mark.parametrize("value", [0.0, -150.0, 1e300, 1e-300])
def test_plot_draws_a_single_point(review, tmp_path, value):
    pytest.importorskip("plotille")
    make_run(tmp_path / "one", evaluations=[{"step": 1000, "time": 1.0, "returns": [value], "lengths": [1]}])
    code, out, err = review("plot", where=tmp_path / "one")
    assert code == 0 and "at environment steps 1,000" in out and "⠀" in out, err


def test_plot_says_what_a_terminal_without_braille_needs(root, tmp_path):
    pytest.importorskip("plotille")
    command = [sys.executable, "-m", "rlresearch.review", "plot", "--runs-dir", str(root), "--no-cache"]
    own = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "this terminal's encoding, ascii, has no signs to draw with" in done.stderr
    assert "--output=FILE" in done.stderr and len(done.stderr.splitlines()) == 1
