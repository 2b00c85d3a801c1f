"""What one opens to follow an algorithm from the parts of its command to its gradient step: few files, and all of them.

Each algorithm's page lists the files under `Files to read`. The table at the end of docs/algorithms/index.md has the
modules that need not be opened, each with the line that says what the files rely on.
"""

import ast
import re
from functools import cache

import pytest
import yaml
from conftest import ROOT
from support.bounds import BOUNDS

PAGES = ROOT / "docs" / "algorithms"
ALGORITHMS = sorted(path.stem for path in (ROOT / "rlresearch" / "algos").glob("[!_]*.py"))
GROUPS = ("network", "buffer", "noise", "optimizer", "normalize", "schedule")


def section(page, heading):
    return (PAGES / page).read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]


FILES = {name: re.findall(r"^- `(\S+)`$", section(f"{name}.md", "Files to read"), re.MULTILINE) for name in ALGORITHMS}
CONTRACTS = dict(
    re.findall(r"^\| `(\S+)` \| (.+) \|$", section("index.md", "Modules that you need not open"), re.MULTILINE)
)


@cache
def path_of(module):
    """The file of a dotted module, None where there is no such module."""
    base = ROOT.joinpath(*module.split("."))
    found = [path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()]
    return found[0] if found else None


@cache
def tree_of(module):
    return ast.parse(path_of(module).read_text())


def imported(module):
    """What a module imports of the package: the name there -> (module, name), or (module, None) for a module."""
    names = {}
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("rlresearch") for alias in node.names), (
                "write `from rlresearch import`"
            )
        elif isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "rlresearch":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names[alias.asname or alias.name] = (inner, None) if path_of(inner) else (node.module, alias.name)
    return names


def defining(module, name):
    """The module that defines a name, behind the packages that only pass it on."""
    while name is not None and path_of(module).name == "__init__.py":
        if name not in (passed_on := imported(module)):
            return module
        module, name = passed_on[name]
    return module


def used(module):
    """The modules that define what a module uses of the package: `ops.discount` is of `ops.td`, not of all of `ops`."""
    found = set()
    for alias, (source, name) in imported(module).items():
        if name is not None or path_of(source).name != "__init__.py":
            found.add(defining(source, name))
            continue
        attributes = {
            node.attr
            for node in ast.walk(tree_of(module))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == alias
        }
        # `noise` is also what fields and tensors are called: only names of the package count.
        found |= {defining(source, each) for each in attributes if each in imported(source)}
    return found - {module}


def targets(node):
    """All `_target_`s of a configuration."""
    if isinstance(node, dict):
        yield from ([node["_target_"]] if "_target_" in node else [])
        for each in node.values():
            yield from targets(each)


def parts(algorithm):
    """The modules that define the parts of the commands `algo=...` that lead to an algorithm."""
    found = {defining("rlresearch.runners", "Device")}  # what conf/config.yaml names
    for path in (ROOT / "conf" / "algo").glob("*.yaml"):
        config = yaml.safe_load(path.read_text())
        if config["algo"]["_target_"].split(".")[-2] != algorithm:
            continue
        for default in config["defaults"]:
            ((key, choice),) = default.items()
            group = key.removeprefix("override ").removeprefix("/").partition("@")[0]
            assert group in GROUPS
            for target in targets(yaml.safe_load((ROOT / "conf" / group / f"{choice}.yaml").read_text())):
                module, _, name = target.rpartition(".")
                found.add(defining(module, name))
    return found


def module_of(file):
    return file.removesuffix(".py").replace("/", ".")


def needed(algorithm):
    """The modules that the listed files and the algorithm's parts lead to."""
    return parts(algorithm).union(*(used(module_of(file)) for file in FILES[algorithm]))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_reading_path_is_short(algorithm):
    files = FILES[algorithm]
    assert len(set(files)) == len(files) <= BOUNDS["files_to_read"]
    assert sum(len((ROOT / file).read_text().splitlines()) for file in files) <= BOUNDS["lines_to_read"]
    assert files[0] == f"rlresearch/algos/{algorithm}.py" and "rlresearch/runners/step.py" in files


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_reading_path_leads_to_no_other_file(algorithm):
    assert needed(algorithm) <= {module_of(file) for file in FILES[algorithm]} | set(CONTRACTS)


def test_every_contract_is_one_line_about_a_module_that_some_path_needs():
    assert set(CONTRACTS) <= set().union(*map(needed, ALGORITHMS))
    for module, line in CONTRACTS.items():
        assert path_of(module) and len(line) <= 120 and line.endswith(".")


def test_a_name_leads_to_the_module_that_defines_it():
    assert defining("rlresearch.ops", "discount") == "rlresearch.ops.td"
    assert defining("rlresearch.buffers", "Uniform") == "rlresearch.buffers.uniform"
    assert used("rlresearch.algos.ddpg") >= {"rlresearch.ops.td", "rlresearch.networks.functional", "rlresearch.types"}
    assert "rlresearch.ops.advantage" not in used("rlresearch.algos.ddpg")
    assert "rlresearch.ops.advantage" in used("rlresearch.algos.ppo")
