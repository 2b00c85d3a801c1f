"""Does searching find better settings than drawing at random, does pruning save, does PBT help? DDPG on Pendulum.

    python scripts/quality/search_quality.py [--studies 5] [--trials 30] [--batch 5] [--steps 5000] [--hidden 32]

Each study has the seed of its number, and its trials train with that seed. TPE, random search and TPE with pruning
(successive halving: at two fifths of the steps a sixth goes on) have as many trials; what a pruned trial did not
train is counted as saved. The studies are the package's own, proposed and told by `rlresearch.sweeps`; a launcher of
this script's trains one batch of each of them in a single program that is compiled once, which is what takes this from
hours to minutes. Last, a population whose members are chosen between (`runner=pbt`) stands beside the same one without.
Printed are medians over studies, and means over populations, with intervals: from the worst to the best where they are
five or fewer. Exit code 1 where a claim fails.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from rlresearch.config import changes, compose, overrides
from rlresearch.runners import PBT, Population
from rlresearch.runners.pbt import PBTRunner
from rlresearch.runtime import devices
from rlresearch.stats import estimate, sample
from rlresearch.sweeps.search import driver, report
from rlresearch.sweeps.search import settings as search
from rlresearch.training.callbacks import Members
from rlresearch.training.experiment import Plan, plan
from rlresearch.training.finite_check import FiniteCheck
from rlresearch.training.loop import LoopSettings, TrainingLoop, train
from rlresearch.training.optuna_trial import Trial, TrialMembers
from rlresearch.training.pruner import Pruner
from rlresearch.training.settings import EvalSettings

BOUNDS = {"optimizer.lr": (1e-6, 1.0), "algo.tau": (1e-4, 1.0), "algo.gamma": (0.5, 0.999), "noise.sigma": (0.01, 2.0)}
DEFAULT = {"optimizer.lr": 1e-6, "algo.tau": 1e-4, "algo.gamma": 0.5, "noise.sigma": 0.01}  # deliberately bad
KINDS = {
    "random": ("hydra.sweeper.sampler=random",),
    "tpe": ("hydra.sweeper.sampler=tpe", "hydra.sweeper.sampler_options={n_startup_trials:8,multivariate:true}"),
}
# Before 2,000 steps nothing has been learned, and a rung there would choose by luck.
OPTIONS = "hydra.sweeper.pruner_options={min_resource:%d,reduction_factor:6}"
PRUNED = ("hydra.sweeper.pruner=successive_halving", OPTIONS)
KINDS["tpe, pruned"] = (*KINDS["tpe"], *PRUNED)
MEMBERS, POPULATIONS = 12, 3
NOISE = 5.0  # a quarter of the standard error of a mean over 20 episodes of Pendulum


class Together:
    """Launches the jobs of several studies as members of one program, once each study has brought a batch."""

    def __init__(self, made: Plan, studies: int, batch: int) -> None:
        bounds = {key: list(each) for key, each in BOUNDS.items()}
        seeds = [study for study in range(studies) for _ in range(batch)]
        self._part = PBT(seeds=tuple(seeds), explore=bounds)
        self._runner = PBTRunner(made.trainer, made.task, seeds, self._part)
        self._runner.after_evaluation = lambda step, scores: []  # here nobody is copied
        self._start, self._beside = self._runner.state(), self._runner.extra_state()
        self._made, self._batch = made, batch
        self.barrier = threading.Barrier(studies, self._train)
        self._jobs: dict[int, list[dict[str, Any]]] = {}
        self.steps: dict[int, int] = dict.fromkeys(range(studies), 0)

    def launcher(self, study: int) -> Any:
        """What Hydra's launcher would be for that study."""

        def launch(batch: Sequence[Sequence[str]], first: int) -> list[Any]:
            pairs = [dict(each.split("=", 1) for each in job) for job in batch]
            self._jobs[study] = [{key: yaml.safe_load(value) for key, value in job.items()} for job in pairs]
            self.barrier.wait()
            return [SimpleNamespace(return_value=None) for _ in batch]

        return launch

    def _train(self) -> None:
        """One batch of every study, from the beginning."""
        steps, trials, beside = self._made.settings.total_steps, [], dict(self._beside)
        for study, jobs in self._jobs.items():
            for place, job in enumerate(jobs):
                member = study * self._batch + place
                told = {name: job[f"trial.{name}"] for name in ("storage", "study", "number", "part")}
                trials.append(TrialMembers(Trial(**told), (member,)))
                for key in BOUNDS:
                    name = f"values.{key.removeprefix('algo.')}"
                    beside[name] = beside[name].copy()
                    beside[name][member] = job[key]
        self._runner.restore(0, self._start, beside)
        members = Members(len(self._runner.members))
        pruner, settings = Pruner(trials, members, steps), LoopSettings(steps, steps, self._made.eval)
        TrainingLoop(self._runner, self._made.task, settings, [FiniteCheck(self._runner), pruner], members).run()
        ended = [steps if each is None else each for each in members.ended]
        statuses = ["finished" if each is None else "pruned" for each in members.ended]
        told = [{"status": status, "total_steps": step} for status, step in zip(statuses, ended)]
        pruner.record(told, [{"path": "-", "row": None}] * len(told))
        for trial in trials:
            self.steps[trial.members[0] // self._batch] += ended[trial.members[0]]


def searched(made: Plan, arguments: argparse.Namespace, words: Sequence[str], folder: Path) -> tuple[list, list]:
    """For each study the best score, and the environment steps of its trials."""
    together = Together(made, arguments.studies, arguments.batch)
    space = [f"{key}=tag(log,interval({low},{high}))" for key, (low, high) in BOUNDS.items()]
    best: dict[int, float] = {}
    chosen = {each.key.removeprefix("hydra.sweeper."): each.value for each in changes.parse_changes(words, None, ())}
    ranges = search.space(overrides.parse_search({}, space).swept)

    def run(study: int) -> None:
        settings = {"n_trials": arguments.trials, "n_jobs": arguments.batch, "seed": study} | chosen
        prepared = search.Prepared(search.settings_of(settings), [f"seed={study}"], ranges, made)
        home = folder / str(study)
        home.mkdir(parents=True)
        try:
            with driver._study(prepared, home) as opened:
                done = driver.Controller(prepared, opened, together.launcher(study)).run(home)
            best[study] = done.best[0].values[0]
        except BaseException:
            together.barrier.abort()  # the others would wait for ever
            raise

    workers = [threading.Thread(target=run, args=(study,)) for study in range(arguments.studies)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    return [best[study] for study in range(arguments.studies)], list(together.steps.values())


def populations(made: Plan) -> tuple[list[float], list[float]]:
    """The mean return of each population, without and with exploiting and exploring."""
    bounds, means = {key: list(each) for key, each in BOUNDS.items()}, ([], [])
    for number in range(POPULATIONS):
        part = PBT(seeds=MEMBERS, explore=bounds)
        for own, exploits in zip(means, (False, True)):
            chosen = part if exploits else Population(seeds=MEMBERS, values=part.keys)
            runner = chosen.start(made.trainer, made.task, 100 * number)
            finals = train(runner, made.task, made.settings.total_steps, made.eval)
            own.append(float(np.mean([each.mean for each in finals])))
    return means


def told(values: Sequence[float], statistic: str = "median") -> str:
    """The statistic with its interval."""
    found = estimate(sample([np.asarray(values, np.float64)], statistic))
    return f"{found.value:,.1f}  [{found.low:,.1f}, {found.high:,.1f}]"


def main() -> int:
    """Searches, prints; 0 where every claim holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("studies", 5), ("trials", 30), ("batch", 5), ("steps", 5_000), ("hidden", 32)):
        parser.add_argument(f"--{name}", type=int, default=value)
    arguments = parser.parse_args()
    nets = [f"network.{name}.hidden=[{arguments.hidden},{arguments.hidden}]" for name in ("actor", "critic")]
    words = ["tuned=none", *nets, f"total_steps={arguments.steps}", "algo.batch_size=64", "algo.learning_starts=500"]
    words += ["buffer.capacity=5000", *(f"{key}={value}" for key, value in DEFAULT.items())]
    made = plan(compose.compose(words).config)
    made = made._replace(eval=EvalSettings(every_steps=arguments.steps // 5, episodes=5, final_episodes=20))
    devices.prepare("cpu", None, False, True)
    report.study_page = lambda *_: None  # no charts

    console, table = Console(), Table("search", "best return, median of studies", "steps of a study", "seconds")
    scores: dict[str, np.ndarray] = {}
    steps: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in KINDS.items():
            began = time.perf_counter()
            words = [word % (arguments.steps * 2 // 5) if "%d" in word else word for word in kind]
            found, used = searched(made, arguments, words, Path(folder) / name)
            scores[name], steps[name] = np.array(found), np.array(used)
            table.add_row(name, told(found), f"{np.mean(used):,.0f}", f"{time.perf_counter() - began:.0f}")
    without, with_it = populations(made._replace(eval=EvalSettings(arguments.steps // 10, 5, 20)))
    console.print(table)
    apart = scores["tpe"] - scores["random"]
    saved = 1.0 - steps["tpe, pruned"] / steps["tpe"]
    cost = scores["tpe, pruned"] - scores["tpe"]
    console.print(f"tpe above random, study by study     {told(apart)}")
    console.print(f"saved by pruning, share of the steps {told(100 * saved)} %; best against not pruned {told(cost)}")
    console.print(f"mean return of {MEMBERS} members: exploiting {told(with_it, 'mean')}, not {told(without, 'mean')}")
    claims: Mapping[str, bool] = {
        "tpe finds better than random": np.median(scores["tpe"]) > np.median(scores["random"]),
        "pruning saves at least 40 %": np.median(saved) >= 0.4,
        "and its best is not worse": np.median(cost) >= -NOISE,
        "pbt improves its population": np.mean(with_it) > np.mean(without),
    }
    for claim, holds in claims.items():
        console.print(f"{'holds' if holds else 'FAILS'}  {claim}")
    return 0 if all(claims.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
