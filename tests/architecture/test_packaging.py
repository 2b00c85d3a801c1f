"""What is shipped works where it lands: the wheel, the source distribution, and the README's commands."""

import ast
import configparser
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from conftest import TRUSTED

import rlresearch

ROOT = Path(__file__).parents[2]

# Run in place of `python -m rlresearch`, to say afterwards what was imported and from where.
PROBE = """
import sys, rlresearch
from rlresearch.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:  # Hydra's own way out of --help
    code = end.code or 0
loaded = "tensorflow.python" in sys.modules
print("probe", code, loaded, rlresearch.__file__, file=sys.stderr)
"""


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    return _build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    """Built from the unpacked source distribution, so that a file which that lacks is missed here."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, **TRUSTED)
    return _build("wheel", folder / sdist.name.removesuffix(".tar.gz"), folder)


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_sdist_has_everything_a_reader_needs(sdist):
    with tarfile.open(sdist) as archive:
        shipped = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"README.md", "LICENSE", "pyproject.toml", "constraints.txt", ".ci/run", ".pre-commit-config.yaml"}
    wanted |= _files("docs", "*.md") | _files("docs/pictures", "*") | {"docs/mkdocs.yml"}
    wanted |= _files("conf", "*.yaml").union(
        *(_files(folder, "*.py") for folder in ("rlresearch", "hydra_plugins", "tests", "scripts", "docs"))
    )
    assert wanted <= shipped, sorted(wanted - shipped)
    strays = [name for name in shipped if "__pycache__" in name or name.startswith(("runs/", ".venv/"))]
    assert not strays


def test_wheel_has_the_package_and_its_configuration_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {"rlresearch/conf/config.yaml", "rlresearch/py.typed"} <= shipped
    wanted = _files("rlresearch", "*.py") | _files("hydra_plugins", "*.py") | _files("rlresearch/review/page", "*")
    wanted |= {f"rlresearch/{name}" for name in _files("conf", "*.yaml")}
    assert wanted <= shipped, sorted(wanted - shipped)
    assert {name.partition("/")[0] for name in shipped} <= {"rlresearch", "hydra_plugins"}


def test_wheel_installs_the_command_and_says_its_version_and_licence(unpacked):
    (about,) = unpacked.glob("*.dist-info")
    commands = configparser.ConfigParser()
    commands.read(about / "entry_points.txt")
    assert commands["console_scripts"]["rlresearch"] == "rlresearch.cli.main:command"
    assert commands["console_scripts"]["rlresearch-review"] == "rlresearch.review.__main__:main"
    metadata = (about / "METADATA").read_text()
    assert f"\nVersion: {rlresearch.__version__}\n" in metadata
    assert "\nLicense-Expression: MIT\n" in metadata
    assert (about / "licenses" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"]], ids=" ".join)
def test_wheel_answers_from_anywhere_without_tensorflow(arguments, unpacked, tmp_path):
    done = _probe(arguments, unpacked, tmp_path)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
    code, loaded, origin = _seen(done)
    assert (code, loaded) == ("0", "False"), done.stderr
    assert Path(origin).is_relative_to(unpacked)
    assert done.stdout.strip()


def test_wheel_reads_its_own_configuration_and_not_the_checkout(unpacked, tmp_path):
    shipped = unpacked / "rlresearch" / "conf" / "config.yaml"
    original = shipped.read_text()
    assert "\nseed: 0 " in original
    try:
        shipped.write_text(original.replace("\nseed: 0 ", "\nseed: 31337 "))
        done = _probe(["--cfg", "job"], unpacked, tmp_path)
    finally:
        shipped.write_text(original)
    assert "seed: 31337" in done.stdout.splitlines()


def test_wheel_refuses_a_typo_in_one_line_with_exit_code_2(unpacked, tmp_path):
    done = _probe(["algo=dpgd"], unpacked, tmp_path)
    code, loaded, _ = _seen(done)
    assert (code, loaded) == ("2", "False"), done.stderr
    (answer,) = [line for line in done.stderr.splitlines() if not line.startswith("probe")]
    assert "did you mean" in answer and "ddpg" in answer


def test_the_base_installation_reviews():
    """Whatever review asks for, also what it loads late by name, comes with the README's first command."""
    asked = set()
    for path in [ROOT / "rlresearch" / "stats.py", *(ROOT / "rlresearch" / "review").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                asked |= {each.name for each in node.names}
            elif isinstance(node, ast.ImportFrom):
                asked.add(node.module)
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "import_optional",
                "importlib.util.find_spec",
            ):
                asked.add(ast.literal_eval(node.args[0]))
    roots = {name.partition(".")[0] for name in asked} - sys.stdlib_module_names - {"rlresearch"}
    assert {"matplotlib", "plotille", "plotly", "pyarrow", "scipy", "starlette", "uvicorn", "google"} <= roots
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base, homes = {_name(each) for each in project["dependencies"]}, packages_distributions()
    missing = {root for root in roots if not base & {_name(each) for each in homes.get(root, [])}}
    assert not missing, f"only an extra brings: {sorted(missing)}"


def test_every_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    direct = [*project["dependencies"], *extras["docs"], *extras["video"], *extras["test"], *extras["dev"]]
    pins = _pins() | {"rlresearch"}
    missing = {name for name in map(_name, direct) if name not in pins}
    assert not missing, f"add to constraints.txt: {sorted(missing)}"


def test_constraints_are_versions_and_not_addresses():
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        requirement = line.partition("#")[0].strip()
        if requirement:
            assert "==" in requirement and "/" not in requirement and not requirement.startswith("-"), line


def test_ci_runs_what_the_readme_says():
    (command,) = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if "-m pytest" in line]
    assert command in (ROOT / "README.md").read_text().splitlines(), f"README.md lacks the line: {command}"
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_hooks_download_nothing_and_ci_checks_what_they_check():
    hooks = []
    for repository in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]:
        assert repository["repo"] == "local"
        hooks += repository["hooks"]
    assert {hook["language"] for hook in hooks} == {"system"}
    ci = (ROOT / ".ci" / "run").read_text()
    for hook in hooks:
        assert f".venv/bin/{hook['entry'].removesuffix(' --force-exclude')}" in ci, hook["id"]


def _build(target: str, source: Path, into: Path) -> Path:
    """The one file that hatchling builds, with what is installed here: no isolation, no network."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(into)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (built,) = [*into.glob("*.tar.gz"), *into.glob("*.whl")]
    return built


def _probe(arguments: list[str], unpacked: Path, cwd: Path) -> subprocess.CompletedProcess:
    """A command line on the unpacked wheel, which comes before the checkout's editable install; -P leaves out cwd."""
    environment = os.environ | {"PYTHONPATH": str(unpacked), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-P", "-c", PROBE, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def _seen(done: subprocess.CompletedProcess) -> list[str]:
    """Exit code, whether TensorFlow was loaded, and where the package lies, of a probe."""
    return done.stderr.strip().splitlines()[-1].split(" ", 3)[1:]


def _files(folder: str, pattern: str) -> set[str]:
    """The files below `folder`, by their paths from the root."""
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob(pattern)}


def _pins() -> set[str]:
    return {_name(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}


def _name(requirement: str) -> str:
    """`Some_Package[extra]>=1` as `some-package`."""
    end = next((i for i, c in enumerate(requirement) if c in "[<>=!~; "), len(requirement))
    return requirement[:end].lower().replace("_", "-")
