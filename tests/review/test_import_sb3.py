"""Runs of Stable-Baselines3: what its environments wrote is one run, and what was torn stops no other.

`support/sb3_runs` was written by PPO of Stable-Baselines3 2.9.2 on CartPole-v1, `make_vec_env(..., monitor_dir=...)`,
64 steps a rollout: with one environment, with four and two seeds, and with four until it was killed at step 1,500.
"""

import json
import shutil
from pathlib import Path

import pytest

from rlresearch.review.__main__ import main
from rlresearch.storage.jsonl import read_rows

FILES = Path(__file__).parents[1] / "support" / "sb3_runs"
HEADER = '#{"t_start": 1700000000.5, "env_id": "CartPole-v1"}\r\nr,l,t\r\n'


@pytest.fixture
def imported(tmp_path, capsys):
    """Imports folders; returns the exit code, what was said, and by folder (the seed, the rows)."""

    def run(*words):
        code = main(["import", *map(str, words), "--runs-dir", str(tmp_path / "runs")])
        made = {}
        for path in sorted((tmp_path / "runs").glob("*/*")):
            record = json.loads((path / "run.json").read_text())
            made[Path(record["imported"]["from"]).name] = record["seed"], list(read_rows(path / "metrics.jsonl"))
        said = capsys.readouterr()
        return code, said.out + said.err, made

    return run


def episodes(folder):
    """(when, return, length) of every row of every file, read by hand, in order of time."""
    found = []
    for path in folder.glob("*.csv"):
        head, _, *lines = path.read_text().splitlines()
        rows = [line.split(",") for line in lines]
        found += [(json.loads(head[1:])["t_start"] + float(t), float(r), int(n)) for r, n, t in rows]
    return sorted(found)


@pytest.mark.parametrize("name", ["one_seed3", "four/seed0", "four/seed1", "killed"])
def test_steps_are_added_over_environments_in_order_of_time(name, imported):
    code, _, made = imported(FILES / name)
    ((_, rows),) = made.values()
    expected = episodes(FILES / name)
    assert code == 0
    assert [row["train/return"] for row in rows] == [value for _, value, _ in expected]
    assert [row["step"] for row in rows] == [sum(n for *_, n in expected[: i + 1]) for i in range(len(expected))]
    assert [row["train/episodes"] for row in rows] == list(range(1, len(expected) + 1))
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)


def test_several_seeds_have_their_own(imported):
    code, _, made = imported(FILES)
    assert code == 0
    assert {name: seed for name, (seed, _) in made.items()} == {"one_seed3": 3, "seed0": 0, "seed1": 1, "killed": 2}


def test_without_names_seeds_count_up_from_the_one_that_is_given(imported, tmp_path):
    for name in ("a", "b", "c"):
        shutil.copytree(FILES / "four" / "seed0", tmp_path / "found" / name)
        with open(tmp_path / "found" / name / "0.monitor.csv", "a") as file:
            file.write(f"{len(name)}.0,{ord(name)},99.5\r\n")
    _, _, made = imported(tmp_path / "found", "--seed", "5")
    assert {name: seed for name, (seed, _) in made.items()} == {"a": 5, "b": 6, "c": 7}


def test_files_that_are_named_after_seeds_are_runs_of_their_own(imported, tmp_path):
    (tmp_path / "found").mkdir()
    for seed in (4, 11):
        shutil.copy(FILES / "one_seed3" / "0.monitor.csv", tmp_path / "found" / f"ppo_seed{seed}.monitor.csv")
        with open(tmp_path / "found" / f"ppo_seed{seed}.monitor.csv", "a") as file:
            file.write(f"1.0,{seed},99.5\r\n")
    code, said, _ = imported(tmp_path / "found")
    assert code == 0 and "(seed 4, " in said and "(seed 11, " in said


def test_rl_zoos_arguments_say_the_seed(imported, tmp_path):
    zoo = shutil.copytree(FILES / "four" / "seed0", tmp_path / "CartPole-v1_7")
    (zoo / "CartPole-v1").mkdir()
    (zoo / "CartPole-v1" / "args.yml").write_text("!!python/object/apply:x\n- - - seed\n    - 2718\n")
    assert imported(zoo)[2]["CartPole-v1_7"][0] == 2718


DAMAGES = {
    "torn": (HEADER + "18.0,18,1.24\r\n22.0,2", [18], "1 of its rows cannot be read"),
    "torn in its time": (HEADER + "18.0,18,1.24\r\n22.0,22,1", [18, 40], ""),
    "no row yet": (HEADER, [], ""),
    "a header that came twice": (HEADER + "1.0,5,1.0\r\n" + HEADER + "2.0,6,0.5\r\n", [5, 11], ""),
    "a later session that appended": (HEADER + "1.0,5,9.0\r\n2.0,6,0.5\r\n3.0,7,2.5\r\n", [5, 11, 18], ""),
    "a hole of zeros": (HEADER + "1.0,5,1.0\r\n\0\0\0\0\r\n2.0,6,2.0\r\n", [5, 11], "1 of its rows"),
    "no numbers": (HEADER + "1.0,5,1.0\r\na,b,c\r\nnan,6,nan\r\n2.0,0,1.5\r\n", [5], "3 of its rows"),
    "other columns first": (HEADER.replace("r,l,t", "t,l,x,r") + '1.5,5,"a,b",7.0\r\n', [5], ""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_read_as_far_as_it_goes_and_stops_no_other(damage, imported, tmp_path):
    content, steps, note = DAMAGES[damage]
    (tmp_path / "found" / "damaged").mkdir(parents=True)
    (tmp_path / "found" / "damaged" / "monitor.csv").write_bytes(content.encode())
    shutil.copytree(FILES / "one_seed3", tmp_path / "found" / "whole")
    code, said, made = imported(tmp_path / "found")
    assert code == 0 and note in said
    assert [row["step"] for row in made["damaged"][1]] == steps
    assert [row["time"] for row in made["damaged"][1]] == sorted(row["time"] for row in made["damaged"][1])
    assert made["whole"][1][-1]["step"] == sum(n for *_, n in episodes(FILES / "one_seed3"))


def test_a_run_without_anything_to_read_stops_no_other(imported, tmp_path):
    (tmp_path / "found" / "a").mkdir(parents=True)
    (tmp_path / "found" / "a" / "monitor.csv").write_text("")
    shutil.copytree(FILES / "one_seed3", tmp_path / "found" / "b")
    code, said, made = imported(tmp_path / "found")
    assert code == 1 and "a/monitor.csv" in said and "it is empty" in said and set(made) == {"b"}


def test_an_empty_file_beside_others_is_told_and_left_out(imported, tmp_path):
    run = shutil.copytree(FILES / "four" / "seed0", tmp_path / "run")
    (run / "4.monitor.csv").write_text("")
    code, said, made = imported(run)
    assert code == 0 and "note: " in said and "4.monitor.csv" in said
    assert made["run"][1][-1]["step"] == sum(n for *_, n in episodes(FILES / "four" / "seed0"))


def test_later_sessions_of_several_environments_stay_in_order(imported, tmp_path):
    """Two environments, both appended to by a second process, which counts seconds anew."""
    (tmp_path / "run").mkdir()
    for env, rows in enumerate((["1.0,1,5.0", "3.0,3,1.0"], ["2.0,2,9.0", "4.0,4,0.5"])):
        text = HEADER + "".join(f"{row}\r\n" for row in rows)
        (tmp_path / "run" / f"{env}.monitor.csv").write_bytes(text.encode())
    _, _, made = imported(tmp_path / "run")
    assert [row["train/return"] for row in made["run"][1]] == [1.0, 2.0, 4.0, 3.0]
    assert [row["time"] for row in made["run"][1]] == [5.0, 9.0, 9.5, 10.0]
