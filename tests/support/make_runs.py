"""Run directories made by the package's own writers, without any training."""

import math
import os
import socket
from pathlib import Path

import numpy as np
import yaml

from rlresearch.storage.jsonl import JsonLines
from rlresearch.storage.run_directory import RunDirectory, atomic_write


def make_run(root: Path, algo="ddpg", env="pendulum", seed=0, status="finished", **about) -> Path:
    """One run with ten metrics rows and five evaluations of four episodes, which end at a mean of `final` (-150).

    about: final; settings {dotted key: value}; started_at; rows, evaluations: to be written instead; record: more of
    run.json.
    """
    with RunDirectory.create(root, algo, env, seed) as run:
        atomic_write(run.path / "config.yaml", yaml.safe_dump(_config(algo, env, seed, about.get("settings", {}))))
        rows = about["rows"] if "rows" in about else metrics_rows(seed)
        evaluations = about["evaluations"] if "evaluations" in about else evaluation_rows(about.get("final", -150.0))
        for name, lines in (("metrics.jsonl", rows), ("evaluations.jsonl", evaluations)):
            file = JsonLines(run.path / name)
            for line in lines:
                file.write(line)
            file.close()
        ended = {"status": status, "host": socket.gethostname(), "pid": os.getpid(), "device": "cpu"}
        if status == "finished":
            ended |= {"total_steps": 1000, "wall_time_s": 12.5, "steps_per_second": 80.0, "finished_at": "2026-11-21"}
            returns = evaluations[-1]["returns"] if evaluations else []
            if returns:
                ended["final_evaluation"] = {
                    **{"step": evaluations[-1]["step"], "episodes": len(returns), "mean_length": 200.0},
                    **{"mean": float(np.mean(returns)), "std": float(np.std(returns))},
                }
        if status == "failed":
            ended |= {"total_steps": 700, "reason": {"kind": "ValueError", "step": 700, "error": "the sensor was lost"}}
        if "started_at" in about:
            ended["started_at"] = about["started_at"]
        run.record(**(ended | about.get("record", {})))
    return run.path


def metrics_rows(seed=0, count=10) -> list[dict]:
    draw = np.random.default_rng(seed)
    return [
        {
            **{"step": 100 * at, "time": 1.25 * at, "train/return": -1500 + 130.0 * at + draw.normal()},
            **{"train/episodes": float(at), "loss/critic": 1.0 / at, "speed/steps_per_second": 80.0},
        }
        for at in range(1, count + 1)
    ]


def evaluation_rows(final=-150.0, count=5) -> list[dict]:
    """Means that rise by 200 to `final`."""
    made = []
    for at in range(1, count + 1):
        mean = final - 200.0 * (count - at)
        returns = [mean - 10.0, mean + 10.0, mean - 20.0, mean + 20.0]
        made.append({"step": 200 * at, "time": 2.5 * at, "returns": returns, "lengths": [200] * 4})
    return made


def make_group(root: Path, algo: str, finals, **about) -> list[Path]:
    """A run for each final mean, with the seeds 0, 1, ..."""
    return [make_run(root, algo, seed=seed, final=final, **about) for seed, final in enumerate(finals)]


def _config(algo, env, seed, settings) -> dict:
    config = {"seed": seed, "total_steps": 1000, "runs_dir": "runs", "algo": {"gamma": 0.98}, "env": {"id": env}}
    config |= {"optimizer": {"lr": 0.001, "eps": 1e-7}, "network": {"actor": {"hidden": [64, 64]}}}
    for key, value in settings.items():
        *path, last = key.split(".")
        node = config
        for name in path:
            node = node.setdefault(name, {})
        node[last] = value
    return config


NAN, INFINITY = math.nan, math.inf
