"""Are our statistics rliable's? Both on the same scores and the same resamples; differences must stay below 1e-12.

    python scripts/quality/rliable_check.py [--folder build/rliable]

rliable does not import beside pandas 3, so it gets an environment of its own, built in the folder the first time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np

from rlresearch import stats

PEER = ("rliable==1.2.0", "pandas<3", "setuptools<81")
TOLERANCE = 1e-12
# Run there: reads scores and resamples, answers with what rliable makes of them.
ASK = """
import json, sys
import numpy as np
from rliable import library, metrics
given = np.load(sys.argv[1])
scores, others, drawn, thresholds = (given[name] for name in ("scores", "others", "drawn", "thresholds"))
of = {"iqm": metrics.aggregate_iqm, "mean": metrics.aggregate_mean, "median": metrics.aggregate_median}
resampled = [np.stack([scores[each[:, t], t] for t in range(scores.shape[1])], 1) for each in drawn]
answer = {name: float(each(scores)) for name, each in of.items()}
answer |= {f"resampled {name}": [float(each(one)) for one in resampled] for name, each in of.items()}
answer |= {f"interval {name}": np.percentile(answer[f"resampled {name}"], [2.5, 97.5]).tolist() for name in of}
answer["improvement"] = float(metrics.probability_of_improvement(scores, others))
answer["profile"] = [float(library.run_score_deviation(scores, each)) for each in thresholds]
print(json.dumps(answer))
"""


def main() -> int:
    """Compares; 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/rliable"))
    python = environment(parser.parse_args().folder)
    worst = 0.0
    for runs, others, tasks in ((5, 5, 3), (10, 10, 1), (3, 7, 8), (20, 13, 26)):
        given = made(runs, others, tasks)
        theirs, own = asked(python, given), ours(given)
        if tasks == 1:  # rliable's median over a single task is the mean of its runs; ours is their median
            theirs = {name: value for name, value in theirs.items() if "median" not in name}
        for name, value in theirs.items():
            apart = float(np.max(np.abs(np.asarray(value) - np.asarray(own[name]))))
            worst = max(worst, apart)
            print(f"{runs:>2} runs, {tasks:>2} tasks  {name:<18} {apart:.1e}")
    print(f"largest difference {worst:.1e}, allowed {TOLERANCE:.0e}")
    return 0 if worst <= TOLERANCE else 1


def environment(folder: Path) -> Path:
    """The interpreter of an environment with rliable."""
    python = folder / "bin" / "python"
    if not (folder / "built").exists():
        venv.EnvBuilder(clear=True, with_pip=True).create(folder)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEER], check=True)
        (folder / "built").write_text(" ".join(PEER))
    return python


def made(runs: int, others: int, tasks: int) -> dict[str, np.ndarray]:
    """Scores [runs, tasks] with ties, and 200 resamples [200, runs, tasks]."""
    draw = np.random.default_rng(runs)
    return {
        "scores": draw.normal(size=(runs, tasks)).round(2),
        "others": draw.normal(0.3, 1.0, size=(others, tasks)).round(2),
        "drawn": draw.integers(0, runs, (200, runs, tasks)),
        "thresholds": np.linspace(-2, 2, 9),
    }


def ours(given: dict[str, np.ndarray]) -> dict[str, object]:
    """The same names as ASK answers with."""
    strata, drawn = list(given["scores"].T), list(np.moveaxis(given["drawn"], 2, 0))
    answer: dict[str, object] = {name: float(of(strata)) for name, of in stats.STATISTICS.items()}
    answer |= {f"resampled {name}": stats.bootstrap(strata, of, drawn) for name, of in stats.STATISTICS.items()}
    answer |= {f"interval {n}": np.quantile(answer[f"resampled {n}"], [0.025, 0.975]) for n in stats.STATISTICS}
    answer["improvement"] = stats.probability_of_improvement(strata, list(given["others"].T))
    answer["profile"] = stats.profile(strata, given["thresholds"])
    return answer


def asked(python: Path, given: dict[str, np.ndarray]) -> dict[str, object]:
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        np.savez(file, **given)
        file.flush()
        done = subprocess.run([python, "-c", ASK, file.name], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
