"""The page in a browser: what a person does with it, and that nothing of a run becomes script.

pytest -m slow -k review_page          needs Chromium, and playwright from `pip install '.[browser]'`
"""

import shutil
import time

import pytest
from support.make_runs import evaluation_rows, make_group, make_run, metrics_rows
from support.review_server import INJECTIONS, TOKEN, served

from rlresearch.review.__main__ import main
from rlresearch.storage.jsonl import JsonLines

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")]
pytest.importorskip("plotly")
playwright = pytest.importorskip("playwright.sync_api", reason="no playwright here")

FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]
WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => window.violations.push(event.violatedDirective));
"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser):
    """Opens an address in a fresh profile; at the end no error, no alert, no violation and no foreign request."""
    pages, trouble = [], []

    def open_(url, **about):
        context = browser.new_context(viewport=about.pop("viewport", {"width": 1280, "height": 900}), **about)
        context.add_init_script(WATCH)
        page = context.new_page()
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on("console", lambda line: trouble.append(f"console: {line.text}") if _is_error(line) else None)
        page.on("dialog", lambda dialog: (trouble.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        own = url.split("/?")[0].split("#")[0]
        page.on("request", lambda asked: trouble.append(f"request: {asked.url}") if _foreign(asked.url, own) else None)
        page.goto(url)
        page.wait_for_selector("#table tbody tr", timeout=30_000)
        pages.append(page)
        return page

    yield open_
    for page in pages:
        assert page.evaluate("window.violations") == []
        page.context.close()
    assert trouble == []


def _is_error(line):
    """What the page itself says; that an answer was 422, or a server gone, Chromium says by itself."""
    return line.type == "error" and not line.text.startswith("Failed to load resource")


def _foreign(url, own):
    return not url.startswith((own, "data:", "blob:"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "runs"
    for lr in (0.001, 0.01):
        finals = [-250.0 - 1000 * lr - seed for seed in range(6)]
        make_group(folder, "ddpg", finals, settings={"optimizer.lr": lr}, rows=metrics_rows(1))
    make_group(folder, "td3", [-150.0, -160.0, -140.0])
    failed = make_run(folder, "dqn", "cartpole", 7, "failed")
    (failed / "log.txt").write_text("Traceback\nValueError: the sensor was lost\n")
    return folder


@pytest.fixture(scope="module")
def file(folder):
    made = folder.parent / "report.html"
    assert main(["report", "--runs-dir", str(folder), "--no-cache", "-o", str(made)]) == 0
    return f"file://{made}"


@pytest.fixture
def live(folder):
    with served(folder) as port:
        yield f"http://127.0.0.1:{port}/?token={TOKEN}"


def rows_of(page, table="#table"):
    return page.locator(f"{table} tbody tr").count()


def until(page, expression, given=None):
    """Waits for it to be true. playwright's own waiting makes code of text, which the page's policy forbids."""
    ends = time.monotonic() + 120
    while not page.evaluate(expression, given):
        if time.monotonic() > ends:
            pytest.fail(f"never: {expression}")
        time.sleep(0.05)


def drawn(page, place):
    page.locator(place).first.scroll_into_view_if_needed()
    until(page, "at => document.querySelector(at + ' .main-svg') !== null", place)


def traces(page, place):
    """What a chart shows: (name, first y, last y) of each trace that is in its legend."""
    until(page, "at => Boolean(document.querySelector(at)?.data)", place)
    return page.evaluate("at => document.querySelector(at).data.filter((t) => t.name).map((t) => t.name)", place)


def test_a_report_opened_from_a_file_without_a_network(opened, file):
    page = opened(file, offline=True)
    assert page.title() == "Runs" and page.locator("#table tbody tr").count() == 16
    for place in ("#panels .chart", "#pairs .chart", "#scatter"):
        drawn(page, place)
    assert page.locator("#groups tbody tr").count() == 3
    assert "in units of return" in page.inner_text("#meaning")
    page.click("#metrics summary")
    assert "squared units of return" in page.inner_text("#documented")


@pytest.mark.parametrize("where", ["file", "live"])
def test_filter_groups_and_curves_follow_each_other(opened, request, where):
    page = opened(request.getfixturevalue(where))
    page.fill("#filter", "algo=ddpg lr=0.01")
    until(page, "document.querySelectorAll('#groups tbody tr').length === 1")
    assert page.inner_text("#count") == "6 of 16 runs" and rows_of(page) == 6
    page.fill("#filter", "")
    until(page, "document.querySelectorAll('#groups tbody tr').length === 3")
    page.click("#by summary")
    page.check("#by-keys label:has-text('optimizer.lr') input")
    until(page, "document.querySelectorAll('#groups tbody tr').length === 2")
    page.keyboard.press("Escape")
    until(page, "document.querySelector('#panels .chart')?.data?.filter((t) => t.name).length === 2")
    assert sorted(traces(page, "#panels .chart")) == ["lr=0.001 (6)", "lr=0.01 (6)"]
    middle = page.locator("#groups tbody tr:has-text('lr=0.01') td").nth(2).inner_text()
    assert middle == "-262.5"  # of -260 to -265, in the browser as in Python
    page.check("#all")
    until(page, "document.querySelector('#notes').innerText.includes('left out: 1 failed') === false")


def test_a_wrong_filter_is_answered_on_the_page(opened, live):
    page = opened(live)
    page.fill("#filter", "algoo=ddpg")
    until(page, "document.querySelector('#problem').innerText.includes(\"did you mean 'algo'\")")
    page.fill("#filter", "algo=ddpg")
    until(page, "document.querySelector('#problem').innerText === ''")


def test_sorting_marking_and_the_differences(opened, file):
    page = opened(file)
    page.click("#table th button:text-is('final')")
    first = page.locator("#table tbody tr").first
    assert "-265" in first.inner_text()
    page.click("#table th button:text-matches('^final')")
    assert "-140" in page.locator("#table tbody tr").first.inner_text()
    boxes = page.locator("#table tbody input")
    boxes.nth(0).check()
    assert page.locator("#differences").is_disabled()
    boxes.nth(15).check()
    page.click("#differences")
    told = page.inner_text("#dialog-body")
    assert "optimizer.lr\t0.001\t0.01" in told or "optimizer.lr\t0.01\t0.001" in told
    assert "algo.gamma" not in told  # alike in both
    page.keyboard.press("Escape")
    assert not page.locator("#dialog").is_visible()


@pytest.mark.parametrize("where", ["file", "live"])
def test_why_a_run_failed(opened, request, where):
    page = opened(request.getfixturevalue(where))
    page.fill("#filter", "status=failed")
    until(page, "document.querySelectorAll('#table tbody tr').length === 1")
    page.click("#table tbody tr td:nth-child(2)")
    told = page.inner_text("#dialog")
    assert "ValueError: the sensor was lost" in told and "failed" in told
    until(page, "document.querySelectorAll('#dialog .main-svg').length >= 4")  # its curve, its evaluations
    page.click("#dialog summary")
    assert "algo.gamma\t0.98" in page.inner_text("#dialog")


def test_an_address_brings_the_view_back(opened, file):
    page = opened(file)
    page.fill("#filter", "algo=td3")
    page.select_option("#metric", "loss/critic")
    page.select_option("#kind", "parallel")
    page.check("#log")
    page.click("#table tbody tr td:nth-child(2)")
    name, address = page.inner_text("#dialog-title"), page.url
    again = opened(address)
    assert again.inner_text("#dialog-title") == name and again.locator("#log").is_checked()
    assert again.input_value("#metric") == "loss/critic" and again.input_value("#kind") == "parallel"
    assert again.inner_text("#count") == "3 of 16 runs"
    page.go_back()
    until(page, "!document.querySelector('#dialog').open")
    assert "filter=algo" in page.url and "run=" not in page.url


def test_the_keyboard_is_enough(opened, file):
    page = opened(file)
    page.keyboard.press("/")
    page.keyboard.type("algo=td3")
    assert rows_of(page) == 3
    page.keyboard.press("Tab")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("x")
    page.keyboard.press("k")
    page.keyboard.press("x")
    page.keyboard.press("d")
    assert "Differences of 2 runs" in page.inner_text("#dialog-title")
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    first = page.inner_text("#dialog-title")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#dialog-title") != first
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()


def test_a_running_job_is_followed(opened, tmp_path):
    make_group(tmp_path, "ddpg", [-150.0, -160.0])
    path = make_run(tmp_path, "td3", status="running", rows=metrics_rows(count=2), evaluations=evaluation_rows(count=2))
    with served(tmp_path) as port:
        page = opened(f"http://127.0.0.1:{port}/?token={TOKEN}")
        page.select_option("#metric", "train/return")
        until(page, "document.querySelector('#panels .chart')?.data?.some((t) => /^running/.test(t.name))")
        assert "1 running" in page.inner_text("#statuses")
        newest = "document.querySelector('#panels .chart').data.find((t) => /^running/.test(t.name)).x.at(-1)"
        until(page, f"{newest} === 200")
        file = JsonLines(path / "metrics.jsonl")
        file.write(metrics_rows()[8])
        file.close()
        make_run(tmp_path, "sac", status="failed")
        until(page, f"{newest} === 900")
        assert rows_of(page) == 4 and "1 failed" in page.inner_text("#statuses")
        assert page.inner_text("#live") == "live" and "token" not in page.url


def test_a_page_whose_server_has_gone_says_so(browser, folder):
    with served(folder) as port:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}/?token={TOKEN}")
        page.wait_for_selector("#table tbody tr")
    until(page, "document.querySelector('#live').innerText.includes('no longer live')")
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_on_a_phone_and_in_the_dark(opened, file, scheme):
    phone = {"viewport": {"width": 360, "height": 740}, "color_scheme": scheme, "has_touch": True, "is_mobile": True}
    page = opened(file, **phone)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.tap("#table tbody tr td:nth-child(2)")
    assert page.evaluate("document.querySelector('#dialog').getBoundingClientRect().width <= innerWidth")
    ground, ink = (
        [int(part) for part in page.evaluate(f"getComputedStyle(document.body).{name}")[4:-1].split(",")[:3]]
        for name in ("backgroundColor", "color")
    )
    assert (sum(ground) < sum(ink)) == (scheme == "dark") and abs(sum(ground) - sum(ink)) > 450


def test_videos_are_shown(opened, tmp_path):
    path = make_run(tmp_path, "ddpg")
    (path / "videos").mkdir()
    for step in (10, 200):
        (path / "videos" / f"step_{step}.mp4").write_bytes(b"\0" * 2000)
    with served(tmp_path) as port:
        page = opened(f"http://127.0.0.1:{port}/?token={TOKEN}")
        page.locator("#videos").scroll_into_view_if_needed()
        assert page.locator("#clips video").count() == 1 and "step_200.mp4" in page.inner_text("#clips")
        page.click("#clips button")
        names = page.locator("#dialog select[aria-label=video] option").all_inner_texts()
        assert names == ["step_10.mp4", "step_200.mp4"]
        with page.expect_response(lambda answer: "/video?" in answer.url and "at=0" in answer.url) as answer:
            page.select_option("#dialog select[aria-label=video]", "step_10.mp4")
        assert answer.value.status in (200, 206)


def _evil_runs(folder, evil, at):
    """Runs with the text in every field that a person, an environment, a program or a file name can fill."""
    settings = {"optimizer.name": evil, f"algo.{evil.replace('.', '')[:60]}": at, "tags": [evil, "x"], "note": evil}
    rows = [row | {f"loss/{evil}": 1.0} for row in metrics_rows()]
    record = {name: evil for name in ("env", "algo", "host", "device", "command", "started_at", "python")}
    record |= {"git": {"commit": evil}, "packages": {evil: evil}, "choices": {evil: evil}}
    about = {"settings": settings, "rows": rows, "evaluations": evaluation_rows()}
    paths = [make_run(folder, "a", "b", seed, record=record, **about) for seed in range(2)]
    reason = {"reason": {"kind": evil, "error": evil}}
    paths.append(make_run(folder, "a", "b", 2, "failed", record=record | reason, **about))
    (paths[-1] / "log.txt").write_text(f"{evil}\n")
    (paths[0] / "videos").mkdir()
    for path, name in ((paths[0] / "videos" / "x.mp4", f"{evil}.mp4"), (paths[-1], f"{at}_{evil}")):
        if path.suffix:
            path.write_bytes(b"")
        path.rename(path.with_name(name.replace("/", "\N{DIVISION SLASH}")))


def _everything(page):
    """Every metric, every axis, both kinds of charts, every group, every failed run, labels under the mouse."""
    page.check("#each")
    for name in page.eval_on_selector_all("#metric option", "all => all.map((each) => each.value)"):
        page.select_option("#metric", name)
    page.select_option("#metric", "eval/return")  # every panel has it
    for kind in ("parallel", "scatter"):
        page.select_option("#kind", kind)
        drawn(page, "#scatter")
    for name in page.eval_on_selector_all("#across option", "all => all.map((each) => each.value)"):
        page.select_option("#across", name)
    for place in ("#panels .chart", "#pairs .chart", "#scatter"):
        drawn(page, place)
        box = page.locator(place).first.bounding_box()
        for share in (0.2, 0.35, 0.5, 0.65, 0.8):
            page.mouse.move(box["x"] + share * box["width"], box["y"] + share * box["height"])
    for at in range(0, rows_of(page)):
        page.locator("#table tbody tr td:nth-child(2)").nth(at).click(position={"x": 40, "y": 8})
        page.wait_for_selector("#dialog .main-svg", timeout=5_000)
        page.eval_on_selector("#dialog summary", "each => each.click()")
        page.keyboard.press("Escape")
    for box in page.locator("#table tbody input").all()[:4]:
        box.check()
    page.click("#differences")
    page.keyboard.press("Escape")
    for key in page.eval_on_selector_all("#by-keys label", "all => all.map((each) => each.textContent)")[:8]:
        page.evaluate("key => { location.hash = new URLSearchParams({ by: key }); }", key)
        until(page, "document.querySelector('#by-now').textContent !== 'whatever differs'")


@pytest.mark.parametrize("where", ["file", "live"])
@pytest.mark.parametrize("at", range(0, len(INJECTIONS), 10))
def test_no_script_of_a_run_runs(opened, tmp_path, where, at):
    """Ten strings at a time; `opened` sees alerts, violations of the policy, errors and foreign requests."""
    for place, evil in enumerate(INJECTIONS[at : at + 10]):
        _evil_runs(tmp_path / "runs", evil, place)
    title = INJECTIONS[at + 1]
    if where == "file":
        words = ["report", "--runs-dir", str(tmp_path / "runs"), "--no-cache", "--title", title]
        assert main([*words, "-o", str(tmp_path / "report.html")]) == 0
        page = opened(f"file://{tmp_path}/report.html")
        _everything(page)
        _unharmed(page, title)
    else:
        with served(tmp_path / "runs") as port:
            page = opened(f"http://127.0.0.1:{port}/?token={TOKEN}")
            _everything(page)
            _unharmed(page, "Runs")
            page.goto("about:blank")


def _unharmed(page, title):
    assert page.title() == " ".join(title.split())
    assert page.locator("script").count() == 3
    assert page.locator("body :is(img, iframe, object, embed, link, base, form, meta)").count() == 0
    handlers = "all => all.flatMap((each) => [...each.attributes].map((a) => a.name)).filter((n) => n.startsWith('on'))"
    assert page.eval_on_selector_all("body *", handlers) == []
    assert page.locator("a, svg tspan[style*='font-weight']").count() == 0
