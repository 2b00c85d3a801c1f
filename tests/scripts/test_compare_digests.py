"""scripts/reliability/compare_digests.py on small checkouts: equal, different and failed runs are told apart."""

import subprocess
import sys

import pytest
from conftest import ROOT

# Stands for the package: a run's digest is what the file beside it says of the algorithm.
PACKAGE = """
import json
from pathlib import Path

def main(argv):
    given = dict(word.split("=", 1) for word in argv)
    digest = json.loads((Path(__file__).parent / "digests.json").read_text()).get(given["algo"])
    if digest is None:
        return 1
    run = Path(given["runs_dir"]) / "2026-11-21" / "run"
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"status": "finished", "state_digest": digest}))
    return 0
"""


@pytest.fixture
def checkouts(tmp_path):
    def made(**digests):
        for name, text in digests.items():
            package = tmp_path / name / "rlresearch"
            package.mkdir(parents=True)
            (package / "__init__.py").write_text("")
            (package / "__main__.py").write_text(PACKAGE)
            (package / "digests.json").write_text(text)
        return [str(tmp_path / name) for name in digests]

    return made


def compared(old, new, *options):
    command = [sys.executable, str(ROOT / "scripts" / "reliability" / "compare_digests.py"), old, new, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_equal_digests_are_success(checkouts):
    done = compared(
        *checkouts(old='{"td3": "1a", "ppo": "2b"}', new='{"td3": "1a", "ppo": "2b"}'), "--only", "td3", "ppo"
    )
    assert done.returncode == 0 and "6 of 6 digests are equal." in done.stdout, done.stderr


def test_a_difference_and_a_failed_run_are_no_success(checkouts):
    old, new = checkouts(old='{"td3": "1a", "sac": "3c"}', new='{"td3": "1b"}')
    done = compared(old, new, "--only", "td3_host", "sac_host", "ppo_host")
    lines = [line.split() for line in done.stdout.splitlines() if "_host" in line]
    assert done.returncode == 1 and "0 of 3 digests are equal." in done.stdout, done.stderr
    told = {line[1].split("_")[0]: (line[3], line[5], line[7]) for line in lines if len(line) > 7}
    assert told["td3"] == ("1a", "1b", "DIFFERENT")
    assert told["sac"] == ("3c", "failed", "DIFFERENT")
    assert told["ppo"] == ("failed", "failed", "DIFFERENT")  # where neither trains nothing was compared


def test_a_wrong_command_is_refused(checkouts, tmp_path):
    (old,) = checkouts(old="{}")
    done = compared(old, str(tmp_path))
    assert done.returncode == 2 and "must be a checkout" in done.stderr
    done = compared(old, old, "--only", "td4")
    assert done.returncode == 2 and "td3_device" in done.stderr
