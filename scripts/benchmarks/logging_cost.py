"""What logging costs training, and that a W&B server cannot make it cost more, whatever it does.

    python scripts/benchmarks/logging_cost.py                     every kind of server, some six minutes on two cores
    python scripts/benchmarks/logging_cost.py hang 500 --rounds 3

DDPG on Pendulum-v1, networks of [64, 64], a row every 1,000 steps (the default), files, TensorBoard and W&B at once.
The server is a fake one on the loopback address (tests/support/fake_wandb.py). Intervals of 1,000 steps with logging
and without alternate, so that other work on the machine falls on both alike.

- ratio: time of an interval with logging over that of the next one, without; median of all pairs
- processor: the same of processor time, which other work on the machine changes less
- told: median share of telling the loggers in the processor time of an interval, which other work does not change
- beside: processor time of the processes beside it, as a share of one core, once they are running
- exit: seconds that the end of the run waited for W&B, of 10 that it may
- rows: in the files, and in W&B after `rlresearch-review sync`
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from rlresearch.config.compose import compose  # noqa: E402
from rlresearch.loggers.base import Logger  # noqa: E402
from rlresearch.loggers.composite import CompositeLogger  # noqa: E402
from rlresearch.loggers.file_logger import FileLogger  # noqa: E402
from rlresearch.loggers.tail import RowFollower  # noqa: E402
from rlresearch.loggers.tensorboard import TensorBoard  # noqa: E402
from rlresearch.loggers.wandb.settings import WandbSettings  # noqa: E402
from rlresearch.loggers.wandb.supervisor import WandbProcess  # noqa: E402
from rlresearch.storage.jsonl import read_rows  # noqa: E402
from rlresearch.storage.run_directory import RunDirectory, atomic_write  # noqa: E402
from rlresearch.training.experiment import plan  # noqa: E402

STEPS = 1_000  # of an interval
SETTLE_S = 6.0  # the libraries of the process beside are loaded: in a run, while TensorFlow is
EXIT_S = 10.0
SERVERS = ("none", "ok", "gone", "hang", "reset", "garbage", "429", "500", "dies and comes back")


class Found(NamedTuple):
    """Of one server. on, off: seconds of each interval; computed: processor time of one with logging over that of the
    next; told: the share of loggers in it; measured_s: of all together; beside_s: of processors.
    """

    on: list[float]
    off: list[float]
    computed: list[float]
    told: list[float]
    measured_s: float
    beside_s: float
    exit_s: float
    rows: int
    written: int
    mirrored: int | None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="*", metavar="SERVER", help=f"of {', '.join(SERVERS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="measured, of a round")
    options = parser.parse_args()
    for name in options.servers:
        if name not in SERVERS:
            parser.error(f"{name}: must be one of {', '.join(SERVERS)}")
    logging.getLogger("rlresearch").addHandler(logging.NullHandler())
    training = Training()
    servers = options.servers or SERVERS
    rounds = [{name: measured(training, name, options.seconds) for name in servers} for _ in range(options.rounds)]
    Console(soft_wrap=True, highlight=False, width=100).print(table(servers, rounds))
    return 0


class Training:
    """A compiled loop that is learning."""

    def __init__(self) -> None:
        small = ["network.actor.hidden=[64,64]", "network.critic.hidden=[64,64]", "algo.batch_size=128"]
        made = plan(compose(["algo=ddpg", "env=pendulum", "tuned=none", "total_steps=100000000", *small]).config)
        self.runner, self.step = made.runner.start(made.trainer, made.task, 0), 0
        for _ in range(12):  # past compiling, and past the first steps that only collect
            self.interval(None)

    def interval(self, logger: Logger | None) -> tuple[float, float, float]:
        """Seconds of 1,000 steps, of processors in them, and of a processor in telling the loggers."""
        began, computed = time.perf_counter(), time.process_time()
        self.runner.advance(STEPS, True)
        trained, telling = time.perf_counter(), time.thread_time()
        self.step += STEPS
        if logger is not None:
            for row in self.runner.metrics():
                logger.metrics({"step": self.step} | row | {"speed/steps_per_second": STEPS / (trained - began)})
        return time.perf_counter() - began, time.process_time() - computed, time.thread_time() - telling


def measured(training: Training, name: str, seconds: float) -> Found:
    with tempfile.TemporaryDirectory() as folder, Server() as server:
        os.environ |= server.environment(folder)
        directory = RunDirectory.create(Path(folder) / "runs", "ddpg", "pendulum", 0)
        atomic_write(directory.path / "config.yaml", "seed: 0\n")
        logger = CompositeLogger([FileLogger(directory), TensorBoard(directory.path)])
        if name not in ("none", "ok", "dies and comes back"):
            server.does("stop" if name == "gone" else name)
        beside = (
            None
            if name == "none"
            else WandbProcess([directory.path], WandbSettings(exit_wait_s=EXIT_S), lambda _: None)
        )
        rows = settle(training, logger)
        group, began = os.getpgid(beside._process.pid) if beside else None, time.perf_counter()
        before, on, off, told = processor_s(group), [], [], []
        ratios: list[float] = []
        while (passed := time.perf_counter() - began) < seconds:
            if name == "dies and comes back":
                server.does("ok" if passed > seconds * 0.7 else "reset" if passed > seconds * 0.3 else "ok")
            spent, computed, telling = training.interval(logger)
            on.append(spent)
            told.append(telling / computed)
            rows += 1
            without, computed_without, _ = training.interval(None)
            off.append(without)
            ratios.append(computed / computed_without)
        beside_s, passed = processor_s(group) - before, time.perf_counter() - began
        logger.close()
        directory.record(status="finished")
        exit_s = ended(beside)
        written = sum(1 for _ in read_rows(directory.path / "metrics.jsonl"))
        mirrored = None if name == "none" else synced(server, directory.path, Path(folder) / "runs")
        directory.close()
        return Found(on, off, ratios, told, passed, beside_s, exit_s, rows, written, mirrored)


def settle(training: Training, logger: Logger) -> int:
    """Trains, with rows, until the process beside has begun; returns how many rows that were."""
    began, rows = time.perf_counter(), 0
    while time.perf_counter() - began < SETTLE_S:
        training.interval(logger if rows < 5 else None)
        rows += rows < 5
    return rows


def ended(beside: WandbProcess | None) -> float:
    began = time.perf_counter()
    if beside is not None:
        beside.close()
    return time.perf_counter() - began


def synced(server: Server, path: Path, runs: Path) -> int:
    """The rows that W&B has in the end; -1 where they are not those of the files, or not each once."""
    server.does("ok")
    command = [sys.executable, "-m", "rlresearch.review", "sync", path.name, "--runs-dir", str(runs), "--no-cache"]
    subprocess.run([*command, "--to", "wandb"], cwd=ROOT, check=True, capture_output=True)
    positions = server.rows().get(path.name)
    return len(positions) if positions == [point.position for point in RowFollower(path).rest()] else -1


class Server:
    """The fake server, in a process of its own."""

    def __enter__(self) -> Server:
        command = [sys.executable, str(ROOT / "tests" / "fake_wandb.py")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._port, self._word = int(self._process.stdout.readline()), ""
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def environment(self, home: str) -> dict[str, str]:
        own = {"WANDB_BASE_URL": f"http://127.0.0.1:{self._port}", "WANDB_API_KEY": "0" * 40, "WANDB_ENTITY": "lab"}
        return own | {"WANDB_CONFIG_DIR": home, "WANDB_CACHE_DIR": home}

    def does(self, word: str) -> None:
        """Changes its manner, where it is another."""
        if word != self._word:
            words = ["start", word] if self._word == "stop" else [word]
            self._word = word
            self._process.stdin.write("".join(f"{each}\n" for each in words))
            self._process.stdin.flush()

    def rows(self) -> dict[str, Any]:
        self._process.stdin.write("rows\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def processor_s(group: int | None) -> float:
    """Seconds that the processes of a group have computed."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat") if group else ():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def table(servers: list[str], rounds: list[dict[str, Found]]) -> Table:
    made = Table(box=SIMPLE_HEAD, title="logging, one row every 1,000 steps")
    made.add_column("server")
    for name in ("ratio", "processor", "told", "beside", "exit", "rows: told", "in files", "in W&B"):
        made.add_column(name, justify="right")
    for name in servers:
        found = [each[name] for each in rounds]
        ratio = statistics.median(on / off for each in found for on, off in zip(each.on, each.off, strict=True))
        computed = statistics.median(ratio for each in found for ratio in each.computed)
        told = statistics.median(statistics.median(each.told) for each in found)
        beside = sum(each.beside_s for each in found) / sum(each.measured_s for each in found)
        counts = [sum(each.rows for each in found), sum(each.written for each in found)]
        mirrored = [each.mirrored for each in found]
        there = "" if None in mirrored else f"{sum(mirrored):,}" if min(mirrored) >= 0 else "differs"
        made.add_row(
            *(name, f"{ratio:.3f}", f"{computed:.3f}", f"{told:.2%}", f"{beside:.1%}"),
            f"{max(each.exit_s for each in found):.1f} s",
            *(f"{count:,}" for count in counts),
            there,
        )
    return made


if __name__ == "__main__":
    sys.exit(main())
