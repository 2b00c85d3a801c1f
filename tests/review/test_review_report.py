"""The report is one file that needs nothing else, shows what is asked for, and runs nothing that came from a run."""

import base64
import hashlib
import html
import json
import re

import pytest
from support.make_runs import NAN, evaluation_rows, make_group, make_run, metrics_rows
from support.review_server import INJECTIONS

from rlresearch.review.__main__ import main
from rlresearch.review.commands import report

pytest.importorskip("plotly")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "runs"
    make_group(folder, "ddpg", [-250.0, -260.0, -240.0])
    make_group(folder, "td3", [-150.0, -160.0, -140.0])
    rows = [*metrics_rows(), {"step": 1100, "loss/critic": NAN}]
    failed = make_run(folder, "dqn", "cartpole", 7, "failed", rows=rows)
    (failed / "log.txt").write_text("Traceback\nValueError: the sensor was lost\n")
    return folder


def _made(folder, tmp_path, *words) -> str:
    file = tmp_path / "report.html"
    assert main(["report", "--runs-dir", str(folder), "--no-cache", "-o", str(file), *words]) == 0
    return file.read_text(encoding="utf-8")


def _data(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_the_page_holds_what_was_asked_for(folder, tmp_path):
    page = _made(folder, tmp_path, "--title", "Two & <three>")
    assert f"<title>{html.escape('Two & <three>')}</title>" in page
    data = _data(page)
    assert data["title"] == "Two & <three>"
    assert [group["label"] for group in data["groups"]] == ["td3 pendulum", "ddpg pendulum"]
    assert data["own"]["algo"].count("td3") == 3 and data["count"] == data["total"] == 7
    curve = next(each for each in data["metrics"] if each["name"] == "eval/return")
    assert curve["unit"] == "units of return" and curve["groups"][0][1][-1] == -150.0
    assert list(data["logs"].values()) == ["Traceback\nValueError: the sensor was lost\n"]
    assert data["claims"][0]["rows"][0][-1] == "too few seeds" and data["notes"]
    assert data["shared"]["optimizer.lr"] == 0.001 and set(map(len, data["own"].values())) == {7}


def test_a_run_that_failed_has_curves_and_evaluations_too(folder, tmp_path):
    data = _data(_made(folder, tmp_path))
    failed = str(data["own"]["status"].index("failed"))
    assert not any(int(failed) in group["runs"] for group in data["groups"])
    curve = next(each for each in data["metrics"] if each["name"] == "train/return")["runs"][failed]
    assert len(curve[0]) == len(curve[1]) == 10 and len(data["episodes"][failed]) == 5


def test_videos_go_into_the_file_when_asked_for(tmp_path, monkeypatch, capsys):
    path = make_run(tmp_path / "runs", "ddpg")
    (path / "videos").mkdir()
    for step in (9, 10):
        (path / "videos" / f"step_{step}.mp4").write_bytes(b"film %d" % step)
    data = _data(_made(tmp_path / "runs", tmp_path))
    assert data["videos"] == {"0": ["step_9.mp4", "step_10.mp4"]} and "clips" not in data
    clips = _data(_made(tmp_path / "runs", tmp_path, "--videos"))["clips"]
    assert base64.b64decode(clips["0"]) == b"film 10"
    monkeypatch.setattr(report, "LARGEST_CLIPS", 3)
    words = ["report", "--runs-dir", str(tmp_path / "runs"), "--no-cache", "-o", str(tmp_path / "other.html")]
    assert main([*words, "--videos"]) == 2 and not (tmp_path / "other.html").exists()
    assert "name fewer runs" in capsys.readouterr().err


def test_the_policy_lets_these_scripts_run_and_nothing_else(folder, tmp_path):
    page = _made(folder, tmp_path)
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1])
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 2 and "Plotly.react" in scripts[0]
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and "unsafe-inline" not in policy.partition("style-src")[0]
    assert "connect-src" not in policy and "unsafe-eval" not in policy and "http" not in policy


def test_the_page_loads_nothing(folder, tmp_path):
    page = _made(folder, tmp_path)
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"\b(src|href|srcset|action)\s*=|url\(|@import|//", _without_data(own))


def _without_data(page: str) -> str:
    return re.sub(r"(<script type=\"application/json\".*?>).*?</script>", r"\1</script>", page, flags=re.DOTALL)


def test_a_library_that_speaks_of_scripts_does_not_end_its_own():
    assert report.closed("x = '</script>' + '</SCRIPT >' + '<!-- '") == r"x = '<\/script>' + '<\/SCRIPT >' + '<\!-- '"


@pytest.mark.parametrize("evil", INJECTIONS, ids=range(len(INJECTIONS)))
def test_what_comes_from_a_run_cannot_end_its_block(evil):
    page = report.render({"title": evil, "runs": [{"name": evil, evil: evil}]}, evil).decode()
    assert page.count("<script") == report.render({}, "").decode().count("<script")
    assert page.count("</script") == 3
    assert _data(page) == {"title": evil, "runs": [{"name": evil, evil: evil}]}
    assert f"<title>{html.escape(evil)}</title>" in page


@pytest.mark.parametrize("evaluations, first", [(1, "train/return"), (2, "eval/return")])
def test_the_page_begins_with_a_metric_that_has_a_curve(evaluations, first, tmp_path):
    make_run(tmp_path / "runs", evaluations=evaluation_rows(count=evaluations))
    assert _data(_made(tmp_path / "runs", tmp_path))["metrics"][0]["name"] == first


def test_runs_without_any_curve_still_have_a_page(tmp_path):
    make_run(tmp_path / "runs", rows=metrics_rows(count=1), evaluations=evaluation_rows(count=1))
    assert _data(_made(tmp_path / "runs", tmp_path))["metrics"][0]["name"] == "eval/return"
