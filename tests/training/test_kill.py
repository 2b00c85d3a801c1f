"""Real processes, really killed and really told to stop: small parts of `kill_test.py` and `signal_test.py`."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow


def reports(script, *options):
    """(what the script says of each of its cases, its exit code)."""
    command = [sys.executable, str(ROOT / "scripts" / "reliability" / script), "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return json.loads(done.stdout), done.returncode


def test_a_killed_run_that_goes_on_is_the_one_that_was_never_killed():
    found, code = reports("kill_test.py", "--kills", "8", "--only", "ddpg_device", "sac_workers")
    assert [each["differences"] for each in found] == [[], []] and code == 0
    assert [sum(each["aims"].values()) for each in found] == [4, 4]
    assert all(each["aims"]["save"] >= 1 for each in found)


def test_whoever_tells_a_run_to_stop_finds_the_exact_step_saved():
    found, code = reports("signal_test.py", "--times", "1", "--phases", "compiling", "training", "saving", "ending")
    assert [each["wrong"] for each in found] == [[]] * 12 and code == 0
    assert {each["signal"]: each["codes"] for each in found} == {"SIGTERM": [143], "SIGINT": [130], "SIGUSR1": [138]}
