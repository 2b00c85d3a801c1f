"""gpu_check.py: says that there is no GPU, survives what fails, and measures on the CPU with the same code."""

import functools
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, few_operations, without_xla

SCRIPT = ROOT / "scripts" / "benchmarks" / "gpu_check.py"
SMALL = ["--device", "cpu", "--hidden", "8", "--batch", "8", "--capacity", "2000", "--steps", "20"]


@pytest.fixture
def gpu_check(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import gpu_check

    yield gpu_check
    del sys.modules["gpu_check"]


def _ran(*arguments):
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, env=hidden, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("json_too", [False, True], ids=["for people", "json"])
def test_without_a_gpu_it_says_so_in_one_line_and_exits_0(json_too):
    done = _ran(*["--json"] * json_too)
    (line,) = done.stdout.splitlines()
    assert done.returncode == 0 and done.stderr == ""
    assert "TensorFlow finds no GPU here" in (json.loads(line)["reason"] if json_too else line)


@pytest.mark.parametrize("arguments", [["--members", "0"], ["--steps", "many"], ["--device", "tpu"]], ids=" ".join)
def test_a_wrong_command_exits_2(arguments):
    assert _ran(*arguments).returncode == 2


@pytest.mark.slow
def test_on_the_cpu_it_prints_the_table():
    done = _ran(*SMALL, "--members", "1", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("one run", "population of 1", "population of 2", "MiB", "agrees with the CPU", "actions equal"):
        assert words in done.stdout


def _measured_here(gpu_check, monkeypatch):
    """Measurements in this process and without XLA, in place of a process each; they begin to learn soon."""
    monkeypatch.syspath_prepend(SCRIPT.parent / "peers")
    import rlresearch_loop  # noqa: F401 (knows the tasks as they are)
    import work

    monkeypatch.setattr(work, "DDPG", functools.partial(work.DDPG, learning_starts=20))

    def here(options, measurement, device, *more):
        monkeypatch.setattr(sys, "argv", ["gpu_check", *SMALL, "--measure", measurement, *more])
        with without_xla(), few_operations():
            return gpu_check.MEASUREMENTS[measurement](gpu_check.arguments())

    monkeypatch.setattr(gpu_check, "measured", here)


def test_the_report_has_speed_memory_and_agreement(gpu_check, monkeypatch, capsys):
    _measured_here(gpu_check, monkeypatch)
    monkeypatch.setattr(gpu_check, "UPDATES", 3)
    monkeypatch.setattr(sys, "argv", ["gpu_check", *SMALL, "--members", "2", "--json"])
    assert gpu_check.main() == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["device"] == "cpu"
    assert [(each["runner"], each["members"]) for each in report["measurements"]] == [("device", 1), ("population", 2)]
    for each in report["measurements"]:
        assert each["steps_per_second"] > 0 and each["peak_bytes"] > 2**20 and each["compile_seconds"] > 0
    assert report["agreement"]["agrees"] and report["agreement"]["relative_difference"] == 0.0


@pytest.mark.parametrize("spoilt, agrees", [(None, True), ("random_actions", False), ("parameters", False)])
def test_devices_that_differ_disagree(spoilt, agrees, gpu_check, monkeypatch):
    def saved(options, measurement, device, *more):
        names = ("random_actions", "random_observations", "parameters", "policy")
        arrays = {name: np.linspace(0.1, 1.0, 10) for name in names}
        if spoilt and device == "gpu":
            arrays[spoilt] = arrays[spoilt] * 1.02
        np.savez(more[-1], **arrays)
        return {}

    monkeypatch.setattr(gpu_check, "measured", saved)
    assert gpu_check.agreement(SimpleNamespace(device="gpu"))["agrees"] == agrees


FAILURES = {
    "ResourceExhaustedError: OOM when allocating tensor with shape[512]": "out of memory",
    "XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes": "out of memory",
    "ValueError: something else": "ValueError: something else",
}


@pytest.mark.parametrize("last_words", FAILURES)
def test_a_size_that_fails_says_why(last_words, gpu_check, monkeypatch):
    done = SimpleNamespace(returncode=1, stdout="", stderr=f"Traceback\n{last_words}\n")
    monkeypatch.setattr(gpu_check.subprocess, "run", lambda *_, **__: done)
    monkeypatch.setattr(sys, "argv", ["gpu_check"])
    assert gpu_check.measured(gpu_check.arguments(), "speed", "gpu") == {"failure": FAILURES[last_words]}


def test_a_size_that_takes_too_long_says_so(gpu_check, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--time-limit", "0.2"])
    assert gpu_check.measured(gpu_check.arguments(), "device", "cpu") == {"failure": "not done after 0.2 s"}


def test_out_of_memory_is_shown_and_is_no_failure_and_others_are(gpu_check, monkeypatch, capsys):
    answers = {"device": {"device": "Some GPU"}, "state": {}}
    monkeypatch.setattr(gpu_check, "agreement", lambda options: {"failure": "none here", "agrees": True})
    for why, code in (("out of memory", 0), ("ValueError: x", 1)):
        answers["speed"] = {"failure": why}
        monkeypatch.setattr(gpu_check, "measured", lambda options, measurement, *_: answers[measurement])
        monkeypatch.setattr(sys, "argv", ["gpu_check", "--members", "512"])
        assert gpu_check.main() == code
        shown = capsys.readouterr().out
        assert "Some GPU" in shown and "population of 512" in shown and why in shown
