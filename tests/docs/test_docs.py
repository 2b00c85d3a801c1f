"""README and the site are whole: they build without a warning, name only what there is, and leave nothing out."""

import ast
import dataclasses
import fcntl
import html
import importlib
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from support.doc_blocks import PAGES, ROOT

from rlresearch.config.compose import CONFIG_FOLDER
from rlresearch.config.instantiate import MOVED, resolve

DOCS, CONF = ROOT / "docs", CONFIG_FOLDER
LINES_OF_THE_README, LONGEST_SENTENCE = 200, 30
HEADINGS = ["Equations", "Differences from the", "Metrics", "Settings", "Scores", "Files to read"]
FILES_TO_READ, LINES_TO_READ = 6, 900
ALGORITHMS = sorted(path.stem for path in (ROOT / "rlresearch" / "algos").glob("*.py") if path.stem != "__init__")
OPTIONS = sorted(CONF.rglob("*/*.yaml"))
RECIPES = ("tuned", "experiment")  # shown as they are written
NAMED = re.compile(
    r"(?<![\w./-])((?:rlresearch|hydra_plugins|scripts|tests|conf|docs)/[\w./*-]*\w[/*]?|constraints\.txt)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder with the built site, built once for all workers."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with open(shared / "site.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "site" / "built").exists():
            _build(shared / "site")
            (shared / "site" / "built").touch()
    return shared / "site"


@pytest.fixture(scope="module")
def settings_pages(site):
    """The text of every generated page of settings."""
    return "\n".join(path.read_text() for path in sorted((site / "reference" / "settings").glob("*.html")))


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= LINES_OF_THE_README


@pytest.mark.parametrize("option", OPTIONS, ids=[path.relative_to(CONF).as_posix() for path in OPTIONS])
def test_every_setting_of_every_option_is_explained(option, settings_pages):
    group = option.parent.relative_to(CONF).as_posix()
    assert f'id="{group.replace("/", "")}{option.stem}"' in settings_pages
    if group in RECIPES:
        return
    for key in _keys(option, group):
        cells = re.search(rf"<td><code>{re.escape(key)}</code></td>\s*(.*?)</tr>", settings_pages, re.DOTALL)
        assert cells, f"{key} stands in no table"
        default, allowed, meaning = re.findall(r"<td>(.*?)</td>", cells[1], re.DOTALL)
        assert default and allowed and meaning, key


def test_every_key_of_no_group_is_explained(settings_pages):
    composed = yaml.safe_load((CONF / "config.yaml").read_text())
    keys = [key for key in composed if key != "defaults" and key != "logger"]
    keys += [f"logger.{key}" for key in composed["logger"]]
    assert [key for key in keys if f"<td><code>{key}</code></td>" not in settings_pages] == []


def test_every_class_of_a_field_is_explained(settings_pages):
    """No field of a dataclass that conf names is missing, though its YAML may leave it out."""
    missing = []
    for option in OPTIONS:
        for target in re.findall(r"_target_: (rlresearch[\w.]+)", option.read_text()):
            fields = dataclasses.fields(resolve(target, "test"))
            plain = [field.name for field in fields if isinstance(field.default, int | float | str | tuple)]
            missing += [f"{target}.{name}" for name in plain if f".{name}</code></td>" not in settings_pages]
    assert not missing


@pytest.mark.parametrize("option", [path.stem for path in sorted((CONF / "algo").glob("*.yaml"))])
def test_every_metric_is_explained(option, site):
    target = yaml.safe_load((CONF / "algo" / f"{option}.yaml").read_text())["algo"]["_target_"]
    cls = resolve(target, "algo._target_")
    everywhere = _text(site / "reference" / "metrics.html")
    page = _text(site / "algorithms" / f"{cls.__module__.rpartition('.')[2]}.html")
    for name, line in cls.METRICS.items():
        meaning, _, unit = line.rpartition(", in ")
        for text in (everywhere, page):
            assert name in text and (meaning or line) in text and unit in text, name


def test_every_algorithm_has_a_page():
    assert ALGORITHMS == sorted(path.stem for path in (DOCS / "algorithms").glob("*.md") if path.stem != "index")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithms_page_has_all_its_parts(name):
    text = (DOCS / "algorithms" / f"{name}.md").read_text()
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert all(heading.startswith(wanted) for heading, wanted in zip(headings, HEADINGS, strict=True)), headings


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_page_has_as_many_differences_as_the_source(name):
    source = ast.get_docstring(ast.parse((ROOT / "rlresearch" / "algos" / f"{name}.py").read_text()))
    told = source.partition("Differences from")[2]
    page = (DOCS / "algorithms" / f"{name}.md").read_text().partition("## Differences from")[2].partition("\n## ")[0]
    assert re.findall(r"^(\d+)\. ", page, re.MULTILINE) == re.findall(r"^(\d+)\. ", told, re.MULTILINE) != []


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_files_to_read_are_few(name):
    files = files_to_read(name)
    assert files[0] == f"rlresearch/algos/{name}.py" and len(files) <= FILES_TO_READ
    assert sum(len((ROOT / file).read_text().splitlines()) for file in files) <= LINES_TO_READ


def files_to_read(name: str) -> list[str]:
    """The paths under the heading `Files to read` of an algorithm's page."""
    section = (DOCS / "algorithms" / f"{name}.md").read_text().partition("## Files to read\n")[2].partition("\n## ")[0]
    return re.findall(r"^- `(\S+)`$", section, re.MULTILINE)


def test_the_site_loads_nothing_from_a_network(site):
    loaded = []
    for page in site.rglob("*.html"):
        loaded += [f"{page.relative_to(site)}: {address}" for address in _Loaded.of(page.read_text())]
    for sheet in site.rglob("*.css"):
        loaded += re.findall(r"(?:url\(|@import)\s*['\"]?(https?:[^'\")]+)", sheet.read_text())
    assert not loaded


def test_equations_are_drawn_without_a_script(site):
    page = (site / "algorithms" / "ddpg.html").read_text()
    assert page.count("<math") >= 5 and "$$" not in page
    for page in (site / "algorithms").glob("*.html"):
        drawn = re.findall(r"<math.*?</math>", page.read_text(), re.DOTALL)
        assert drawn and not re.findall(r"\\\w+|equation\d+end", " ".join(drawn)), page.name


@pytest.mark.parametrize("page", PAGES, ids=[path.relative_to(ROOT).as_posix() for path in PAGES])
def test_every_link_leads_somewhere(page):
    """Also those of the README, which is no page of the site, and as a reader of the repository follows them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for link in links:
        if link.startswith(("http:", "https:")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), f"{link} leads nowhere"
        assert not anchor or anchor in _anchors(target), f"{link}: there is no such heading"


@pytest.mark.parametrize(
    "page", [*PAGES, *OPTIONS], ids=[path.relative_to(ROOT).as_posix() for path in [*PAGES, *OPTIONS]]
)
def test_every_file_that_is_named_is_there(page):
    text = page.read_text()
    if page.suffix == ".yaml":
        text = "\n".join(re.findall(r"#.*", text))
    for name in NAMED.findall(text):
        assert list(ROOT.glob(name.rstrip("/"))), f"{name} is not there"


@pytest.mark.parametrize("page", PAGES, ids=[path.relative_to(ROOT).as_posix() for path in PAGES])
def test_every_dotted_name_is_there(page):
    for name in re.findall(r"`(rlresearch(?:\.\w+)+)", page.read_text()):
        assert _found(name), f"{name} is not there"


def test_pictures_are_all_shown():
    shown = set(re.findall(r"pictures/([\w.]+)", "\n".join(page.read_text() for page in PAGES)))
    assert shown == {path.name for path in (DOCS / "pictures").iterdir()}


def test_no_page_is_a_riddle():
    """No sentence of more words than a reader keeps in mind; code, tables and lists of names apart."""
    long = []
    for page in PAGES:
        for sentence in _sentences(page.read_text()):
            if len(sentence.split()) > LONGEST_SENTENCE:
                long.append(f"{page.relative_to(ROOT)}: {sentence}")
    assert not long, "\n".join(long)


def _build(folder: Path) -> None:
    """--strict makes every warning an error: links, anchors, pages in no menu."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", "docs/mkdocs.yml", "-d", str(folder)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0 and not done.stdout + done.stderr, done.stdout + done.stderr


class _Loaded(HTMLParser):
    """What a browser loads by itself when it opens a page: scripts, sheets, pictures, frames; not links."""

    KINDS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "object": "data"}

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        address = values.get(self.KINDS.get(tag, ""))
        if tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            address = values.get("href")
        if (address or "").startswith(("http:", "https:", "//")):
            self.found.append(address)

    @classmethod
    def of(cls, page: str) -> list[str]:
        parser = cls()
        parser.feed(page)
        return parser.found


def _keys(option: Path, group: str) -> list[str]:
    """The settings that a file sets in its own group, by the key that is typed."""
    written = {key: value for key, value in (yaml.safe_load(option.read_text()) or {}).items() if key != "defaults"}
    own = written.get(group, {}) if "@package _global_" in option.read_text() else written
    prefix = "KEY.schedule" if group == "schedule" else group.replace("/", ".")
    return list(_leaves(own, prefix))


def _leaves(node, path):
    for key, value in node.items():
        if isinstance(value, dict) and key != "references":
            yield from _leaves(value, f"{path}.{key}")
        elif key != "_target_":
            yield f"{path}.{key}"


def _text(page: Path) -> str:
    """A page's text as it is read."""
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text()))


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def _found(name: str) -> bool:
    parts = MOVED.get(name, name).split(".")  # a former name leads on
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not hasattr(found, part) and part not in getattr(found, "__annotations__", {}):
                return False
            found = getattr(found, part, None)
        return True
    return False


def _sentences(text: str) -> list[str]:
    text = re.sub(r"^---\n.*?^---$|^```.*?^```$|\$\$.*?\$\$|^\|.*?$|^ *:::.*?$|<!--.*?-->", "", text, flags=re.M | re.S)
    text = re.sub(r"^( *(?:- |\d+\. |: |#)|\s*$)", "\n\n", text, flags=re.M)
    return [each for part in text.split("\n\n") for each in re.split(r"(?<=[.:;!?]) ", " ".join(part.split()))]
