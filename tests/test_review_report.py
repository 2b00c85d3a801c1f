"""The report is one file that needs nothing else, shows what is asked for, and runs nothing that came from a run."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess

import pytest
from made_runs import NAN, evaluation_rows, make_group, make_run, metrics_rows

from rlresearch.review import report
from rlresearch.review.__main__ import main

pytest.importorskip("plotly")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# What each would do if it were taken for HTML or script: change the title of the page.
INJECTIONS = [
    "<script>document.title='owned'</script>",
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "<svg/onload=document.title='owned'>",
    "<svg><script>document.title='owned'</script></svg>",
    "<!--<script>document.title='owned'</script>",
    "--><script>document.title='owned'</script>",
    "<iframe srcdoc=\"<script>parent.document.title='owned'</script>\">",
    "<a href=\"javascript:document.title='owned'\">x</a>",
    "javascript:document.title='owned'",
    "'><script>document.title='owned'</script>",
    "\"><script>document.title='owned'</script>",
    "\" onmouseover=\"document.title='owned'",
    "' autofocus onfocus=document.title='owned' '",
    "<body onload=document.title='owned'>",
    "<details open ontoggle=document.title='owned'>",
    "<input autofocus onfocus=document.title='owned'>",
    "<style>@import 'http://127.0.0.1:9/x'</style>",
    "<link rel=stylesheet href=http://127.0.0.1:9/x>",
    "<base href=http://127.0.0.1:9/>",
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>",
    "<object data=\"javascript:document.title='owned'\">",
    "<embed src=\"javascript:document.title='owned'\">",
    "<form action=http://127.0.0.1:9/><button>x</button></form>",
    "<math><mtext><script>document.title='owned'</script></mtext></math>",
    "<template><script>document.title='owned'</script></template>",
    "<noscript><p title=\"</noscript><img src=x onerror=document.title='owned'>\">",
    "<textarea></textarea><script>document.title='owned'</script>",
    "<title></title><script>document.title='owned'</script>",
    "<xmp></xmp><script>document.title='owned'</script>",
    "${document.title='owned'}",
    "{{constructor.constructor('document.title=1')()}}",
    "\\u003cscript\\u003edocument.title='owned'\\u003c/script\\u003e",
    "&lt;script&gt;document.title='owned'&lt;/script&gt;",
    "&#60;script&#62;document.title='owned'&#60;/script&#62;",
    "<scr<script>ipt>document.title='owned'</scr</script>ipt>",
    "<SCRIPT SRC=http://127.0.0.1:9/x></SCRIPT>",
    "<script\x0ctype=text/javascript>document.title='owned'</script>",
    "<b>bold</b><i>italic</i>",
    "@DATA@ @SCRIPT@ @POLICY@",
    "__proto__",
    "constructor",
    "%3Cscript%3Edocument.title='owned'%3C/script%3E",
    "\u2028document.title='owned'\u2029",
    "\ufeff<script>document.title='owned'</script>",
    "+ADw-script+AD4-document.title='owned'+ADw-/script+AD4-",
    "<br><a xlink:href=\"javascript:document.title='owned'\">y</a>",
    "<span style=\"background:url(http://127.0.0.1:9/x)\">z</span>",
    "data:text/html,<script>document.title='owned'</script>",
    "]]><script>document.title='owned'</script>",
]


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


def test_the_policy_lets_these_scripts_run_and_nothing_else(folder, tmp_path):
    page = _made(folder, tmp_path)
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1])
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 2 and "Plotly" in scripts[0]
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
    assert report._closed("x = '</script>' + '</SCRIPT >' + '<!-- '") == r"x = '<\/script>' + '<\/SCRIPT >' + '<\!-- '"


@pytest.mark.parametrize("evil", INJECTIONS, ids=range(len(INJECTIONS)))
def test_what_comes_from_a_run_cannot_end_its_block(evil):
    page = report.render({"title": evil, "runs": [{"name": evil, evil: evil}]}, evil).decode()
    assert page.count("<script") == report.render({}, "").decode().count("<script")
    assert page.count("</script") == 3
    assert _data(page) == {"title": evil, "runs": [{"name": evil, evil: evil}]}
    assert f"<title>{html.escape(evil)}</title>" in page


def _evil_folder(folder, evil):
    """A run with the text in every field that a person, an environment or a file name can fill."""
    settings = {"optimizer.name": evil, f"algo.{evil.replace('.', '')[:40]}": 1}
    rows = [row | {f"loss/{evil}": 1.0} for row in metrics_rows()]
    record = {"env": evil, "algo": evil, "host": evil, "device": evil, "command": evil, "started_at": evil}
    about = {"settings": settings, "rows": rows, "evaluations": evaluation_rows()}
    for seed in range(2):
        make_run(folder, "a", "b", seed, record=record, **about)
    path = make_run(folder, "a", "b", 2, "failed", record=record | {"reason": {"kind": evil, "error": evil}}, **about)
    (path / "log.txt").write_text(f"{evil}\n")
    return path


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("at", range(0, len(INJECTIONS), 10))
def test_no_script_of_a_run_runs_in_a_browser(tmp_path, at):
    """Ten strings at a time, each in a run of its own, drawn and with the failed run opened."""
    for evil in INJECTIONS[at : at + 10]:
        path = _evil_folder(tmp_path / "runs", evil)
    title = INJECTIONS[at]
    _made(tmp_path / "runs", tmp_path, "--title", title)
    opened = f"run={path.parent.name}/{path.name}&each=1"
    seen = _browsed(tmp_path / "report.html", opened)
    assert re.search(r"<title>(.*?)</title>", seen, re.DOTALL)[1] == html.escape(title, quote=False)
    assert seen.count("<script") == 3 and 'class="main-svg"' in seen
    assert not re.search(r"<(img|iframe|object|embed|link|base|form)\b", seen)
    assert 'dialog" aria-labelledby="dialog-title" open' in seen


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_shows_the_page_from_a_file(folder, tmp_path):
    _made(folder, tmp_path)
    seen = _browsed(tmp_path / "report.html", "filter=status%3Dfailed&metric=loss/critic")
    assert "1 of 7 runs" in seen and "the sensor was lost" in seen
    assert seen.count('class="main-svg"') >= 8  # each chart has two or three
    assert "in squared units of return" in seen
    assert len(re.findall(r"<tr [^>]*class=\"open\"|<tr class=\"open\"", seen)) == 1


def _browsed(file, fragment) -> str:
    """The page as a browser has it once its script has run."""
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--dump-dom"]
    command = [CHROMIUM, *options, f"--user-data-dir={file.parent / 'profile'}", f"file://{file}#{fragment}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
