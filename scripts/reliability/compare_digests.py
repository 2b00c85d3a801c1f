"""Trains every algorithm on every runner with the code of two checkouts, and compares what was learned bit by bit.

    git worktree add ../old COMMIT
    python scripts/reliability/compare_digests.py ../old .                      all, 2,000 steps each
    python scripts/reliability/compare_digests.py ../old . --only td3 ppo_host  an algorithm, a run; or a runner
    python scripts/reliability/compare_digests.py ../old . --plain              loops as plain graphs, not by XLA

What a program computes depends on the processor, to the last bits. So both checkouts train on this machine, each in one
process that loads TensorFlow once, and run.json's `state_digest` is compared: parameters, moments, replay, simulators,
keys, counters. Of a checkout nothing is used but `rlresearch.__main__.main` and run.json. --plain starts much faster,
and compares the same mathematics, in other programs than those that users run. Version 0.1 gave the members of a
population one digest together: with it, populations cannot be compared by this.

Exit code 0 where all digests are equal, 1 where one is not or a run failed, 2 for a wrong command.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table
from small_runs import commands, use

LENGTH = ["total_steps=2000", "seed=0", "eval.every_steps=1000", "eval.episodes=1", "eval.final_episodes=2"]
LENGTH += ["logger.every_steps=500", "checkpoint=none"]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=_checkout)
    parser.add_argument("new", type=_checkout)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="an algorithm, a runner or both: td3, host, td3_host")
    parser.add_argument("--plain", action="store_true", help="loops as plain graphs")
    parser.add_argument("--one-by-one", action="store_true", help="the second checkout after the first")
    options = parser.parse_args(argv)
    names = [name for name in commands() if not options.only or {name, *name.rsplit("_", 1)} & set(options.only)]
    if not names:
        parser.error(f"--only {' '.join(options.only)}: there are {', '.join(commands())}")
    with tempfile.TemporaryDirectory(prefix="compare_digests_") as folder:
        started = []
        for place, checkout in (("old", options.old), ("new", options.new)):
            (Path(folder) / place).mkdir()
            words = [sys.executable, __file__, "--train", str(checkout), str(int(options.plain)), *names]
            started.append(subprocess.Popen(words, cwd=Path(folder) / place, stdout=subprocess.PIPE, text=True))
            if options.one_by_one:
                started[-1].wait()
        try:
            old, new = ([json.loads(line) for line in each.stdout] for each in started)
        finally:
            for each in started:
                each.kill()
                each.wait()
    return _shown(names, dict(old), dict(new))


def _checkout(text: str) -> Path:
    path = Path(text).resolve()
    if not (path / "rlresearch" / "__main__.py").is_file():
        raise argparse.ArgumentTypeError(f"{text}: must be a checkout, with rlresearch/__main__.py")
    return path


def _shown(names: list[str], old: dict[str, str | None], new: dict[str, str | None]) -> int:
    table, equal = Table("run", "old", "new", ""), 0
    for name in names:
        same = old.get(name) is not None and old.get(name) == new.get(name)
        equal += same
        digests = [str(each.get(name) or "failed")[:16] for each in (old, new)]
        table.add_row(name, *digests, "equal" if same else "[red]DIFFERENT[/]")
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(table)
    console.print(f"{equal} of {len(names)} digests are equal.")
    return 0 if equal == len(names) else 1


def train(checkout: str, plain: str, *names: str) -> None:
    """Trains in this folder with the code of a checkout; prints [name, digest] of each run, null where it failed."""
    answers, sys.stdout = sys.stdout, sys.stderr
    use(Path(checkout), plain == "1")
    from rlresearch.__main__ import main as rlresearch

    for name in names:
        rlresearch([*commands()[name], *LENGTH, f"runs_dir={name}"])
        records = [json.loads(path.read_text()) for path in sorted(Path(name).glob("*/*/run.json"))]
        digests = sorted({str(record.get("state_digest")) for record in records if record["status"] == "finished"})
        whole = bool(digests) and all(record["status"] == "finished" for record in records)
        print(json.dumps([name, "".join(digests) if whole else None]), file=answers, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        train(*sys.argv[2:])
    else:
        sys.exit(main())
