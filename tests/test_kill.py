"""Real processes, really killed."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.slow
def test_a_killed_run_that_goes_on_is_the_one_that_was_never_killed():
    command = [sys.executable, str(ROOT / "scripts" / "kill_test.py"), "--kills", "4", "--json"]
    done = subprocess.run([*command, "--only", "ddpg_device", "ddpg_host"], capture_output=True, text=True, check=False)
    reports = json.loads(done.stdout)
    assert [each["differences"] for each in reports] == [[], []] and done.returncode == 0
    assert sum(each["kills"] for each in reports) == 4
