"""The same seed gives the same bits in processes that know nothing of each other, and what is written changes none.

python -m pytest -m slow tests/training/test_determinism.py                     20 minutes on two cores
python -m pytest -m slow tests/training/test_determinism.py -k "td3 or without"
"""

import json
import os
import subprocess
import sys

import pytest
from conftest import ALGORITHMS, NEEDED, ROOT, home

from rlresearch.config.compose import compose
from rlresearch.storage.jsonl import read_rows

pytestmark = pytest.mark.slow

RUNNERS = {"device": [], "host": ["runner=host"], "population": ["runner=population", "runner.seeds=2"]}
TINY = ["tuned=none", "device=cpu", "logger.console=none", "total_steps=400", "logger.every_steps=100", "eval=final"]
TINY += ["eval.final_episodes=2", "env.max_episode_steps=30"]
SMALL = {"batch_size": 8, "learning_starts": 64, "rollout_steps": 32, "epochs": 2, "minibatches": 2}
SMALL |= {"atoms": 11, "quantiles": 8, "target_every": 50}
TIMES = {"time", "speed/steps_per_second"}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """`start(*overrides)` runs them in a process forked from one that has loaded TensorFlow, and returns its runs."""
    folder = tmp_path_factory.mktemp("lives")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts" / "reliability")
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        import kill_test
        from planted_bugs import FORKS, start_forking

        start_forking(kill_test.PRELOAD)
        numbers = iter(range(10_000))

        def started(*overrides):
            place = folder / str(next(numbers))
            where = [] if any("resume=" in each for each in overrides) else [f"runs_dir={place}"]
            child = FORKS.Process(target=kill_test.life, args=[[*overrides, *where], None, f"{place}.log"])
            child.start()
            child.join()
            assert child.exitcode == 0, open(f"{place}.log").read()
            return runs_in(place)

        yield started


def runs_in(folder):
    return sorted(path.parent for path in folder.glob("*/*/run.json"))


def tiny(name):
    """The command for a shipped algorithm, made as small as its settings allow."""
    overrides = [f"algo={name}", f"env={home(name)}", *NEEDED.get(name, [])]
    config = compose([*overrides, "tuned=none"]).config
    overrides += [f"network.{part}.hidden=[8]" for part in config["network"]]
    overrides += [f"algo.{key}={value}" for key, value in SMALL.items() if key in config["algo"]]
    return [*overrides, *(["buffer.capacity=200"] if config["buffer"].get("capacity") == 100_000 else []), *TINY]


def digest(run):
    """Of everything that was learned, and of the environments, the replay and the counters."""
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "finished" and record["nondeterminism"] is None
    return record["state_digest"]


def rows(run, name):
    """As text, since NaN is not itself."""
    return [repr({k: v for k, v in row.items() if k not in TIMES}) for row in read_rows(run / f"{name}.jsonl")]


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_same_seed_gives_the_same_bits_in_fresh_processes(start, name, runner):
    one, two = (start(*tiny(name), *RUNNERS[runner]) for _ in range(2))
    assert len(one) == len(two) == (2 if runner == "population" else 1)
    for a, b in zip(one, two, strict=True):
        assert digest(a) == digest(b) is not None
        assert len(rows(a, "metrics")) == 4 and rows(a, "metrics") == rows(b, "metrics")
        assert len(rows(a, "evaluations")) == 1 and rows(a, "evaluations") == rows(b, "evaluations")


# What must not change what is learned.

CASES = {
    "device": ["td3", "buffer=prioritized", "buffer.n_step=3", "noise=ou", "normalize=running"],
    "host": ["dqn", "runner=host", "env.num_envs=2"],
    "population": ["ppo", "runner=population", "runner.seeds=2"],
}
CASES["device"] += ["buffer.schedule.over=400"]  # not `total_steps`, which is another before a run is resumed
KNOBS = {
    "rows": ["logger.every_steps=37"],
    "checkpoints": ["checkpoint.every_steps=50", "checkpoint.every_minutes=0.001"],
    "without checkpoints": ["checkpoint=none"],
    "evaluations": ["eval.every_steps=70", "eval.episodes=3"],
    "many processes": ["eval.final_episodes=150", "eval.workers=3"],
    "video": ["eval.video_every=1"],
    "loggers": ["logger=[wandb,tensorboard]", "logger.wandb.mode=offline"],
    "display": ["logger.console=live"],
    "compiled anew": ["compile_cache=false"],
    "deterministic": ["deterministic=true"],
    "threads": ["threads=1"],
}


@pytest.fixture(scope="module", params=CASES)
def case(request, start):
    """(command, the digest of its last state)."""
    name, *more = CASES[request.param]
    command = [*tiny(name), *more]
    return command, digest(start(*command)[0])


@pytest.mark.parametrize("knob", KNOBS)
def test_what_is_learned_does_not_depend_on(start, case, knob):
    command, expected = case
    assert digest(start(*command, *KNOBS[knob])[0]) == expected


def test_what_is_learned_does_not_depend_on_where_when_and_for_whom_it_runs(start, case, tmp_path):
    """Another working directory, run directory, time zone, language, order of hashing; nothing loaded before."""
    command, expected = case
    place = {"TZ": "Asia/Kathmandu", "LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8", "PYTHONHASHSEED": "4711"}
    environment = os.environ | place | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "USER": "somebody"}
    (tmp_path / "elsewhere").mkdir()
    command = [sys.executable, "-m", "rlresearch", *command, "runs_dir=some where"]
    subprocess.run(command, env=environment, cwd=tmp_path / "elsewhere", check=True, stdout=subprocess.DEVNULL)
    assert digest(runs_in(tmp_path / "elsewhere" / "some where")[0]) == expected


def test_what_is_learned_does_not_depend_on_being_resumed(start, case):
    command, expected = case
    half = start(*command, "total_steps=176")
    start(f"resume={half[-1]}", "total_steps=400")
    assert digest(half[0]) == expected


def test_another_seed_gives_other_bits(start, case):
    """The digests above can differ."""
    command, expected = case
    assert digest(start(*command, "seed=1")[0]) != expected
