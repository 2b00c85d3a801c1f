"""The commands and their options; a wrong one gives an error of one line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from rlresearch.errors import ConfigError, allowed_hint, did_you_mean, format_value

STATISTICS = ("iqm", "mean", "median")
TABLE_FORMATS = ("table", "json", "csv", "markdown", "latex")


class Command(NamedTuple):
    """module: below `rlresearch.review`. summary: a line for the overview. add: adds the arguments to a parser."""

    module: str
    summary: str
    add: Callable[[argparse.ArgumentParser], None]


def parse(name: str, argv: Sequence[str]) -> argparse.Namespace | None:
    """Parses the arguments of a command. Prints the help for `--help` and returns None. Errors: ConfigError."""
    command = COMMANDS[name]
    parser = _Parser(
        prog=f"rlresearch-review {name}",
        description=command.summary[:1].upper() + command.summary[1:] + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this")
    command.add(parser)
    if {"-h", "--help"} & set(argv):
        print(parser.format_help(), end="")
        return None
    return parser.parse_intermixed_args(list(argv))


def overview() -> str:
    """Returns the help text with one line for each command."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: rlresearch-review COMMAND [RUN or FILTER ...] [options]", "", *lines, "", _ABOUT_RUNS])


_ABOUT_RUNS = """\
RUN     the beginning or another part of a run's name, a number of the last listing, a path, or `latest`
FILTER  algo=ddpg   'algo.gamma>0.9'   status=failed,killed   'final>-200'   env!=pendulum   'name~s[0-4]_'

COMMAND --help lists a command's options. Runs are looked for in --runs-dir (default: runs)."""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are a ConfigError; argparse's own parser prints the usage and ends the process."""

    def error(self, message: str) -> NoReturn:
        _refuse(self.prog.partition(" ")[2], self, message)


def _refuse(name: str, parser: argparse.ArgumentParser, message: str) -> NoReturn:
    options = [option for action in parser._actions for option in action.option_strings]
    word = message.rpartition("unrecognized arguments: ")[2].partition("=")[0] if "unrecognized" in message else ""
    close = did_you_mean(word.split(" ")[0], options) if word.startswith("-") else ""
    raise ConfigError(f"{name}: {message.removeprefix('argument ')}{close or ';'} `{name} --help` lists the options.")


def _one_of(options: Sequence[str]) -> Callable[[str], str]:
    def chosen(word: str) -> str:
        if word not in options:
            raise argparse.ArgumentTypeError(f"{format_value(word)} is not there{allowed_hint(word, options)[:-1]}")
        return word

    return chosen


def _from(lowest: float, kind: type = int) -> Callable[[str], float]:
    def number(word: str) -> float:
        try:
            value = kind(word)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{format_value(word)} is no number") from None
        if not value >= lowest:
            raise argparse.ArgumentTypeError(f"{format_value(word)} must be at least {lowest}")
        return value

    return number


def _size(word: str) -> tuple[float, float]:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)x(\d+(?:\.\d+)?)", word)
    if not match or not all(1 <= float(side) <= 100 for side in match.groups()):
        raise argparse.ArgumentTypeError(f"{format_value(word)} must be WIDTHxHEIGHT in inches, as in 6x4")
    return float(match[1]), float(match[2])


def _reference(word: str) -> tuple[str, float, float]:
    match = re.fullmatch(r"([^=]+)=([^,]+),([^,]+)", word)
    try:
        if match is None:
            raise ValueError
        name, low, high = match[1], float(match[2]), float(match[3])
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{format_value(word)} must be TASK=LOW,HIGH, as in pendulum=-1500,-150"
        ) from None
    if not low < high:
        raise argparse.ArgumentTypeError(f"{format_value(word)}: LOW must be below HIGH")
    return name, low, high


def _folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs-dir", default="runs", metavar="PATH", help="folder of run directories (default: runs)")
    parser.add_argument("--no-cache", dest="cache", action="store_false", help="read everything anew, keep nothing")


def _run(parser: argparse.ArgumentParser, **about: Any) -> None:
    _folder(parser)
    default: dict[str, Any] = {"default": "latest", "nargs": "?"} if "nargs" not in about else {}
    parser.add_argument("run", metavar="RUN", help="which run; see the overview", **default, **about)


def _runs(parser: argparse.ArgumentParser) -> None:
    _folder(parser)
    parser.add_argument("runs", nargs="*", metavar="RUN or FILTER", help="which runs (default: all)")
    parser.add_argument("--since", metavar="WHEN", help="begun since: 30m, 2h, 7d, 2026-11-21")
    parser.add_argument("--status", metavar="STATUS", help="such as finished, failed, pruned")


def _format(parser: argparse.ArgumentParser, default: str = "table") -> None:
    about = f"{', '.join(TABLE_FORMATS)} (default: {default})"
    parser.add_argument("--format", type=_one_of(TABLE_FORMATS), default=default, metavar="FORMAT", help=about)


def _ls(parser: argparse.ArgumentParser) -> None:
    _runs(parser)
    _format(parser)
    columns = "keys to show, comma-separated; with a leading + beside the usual ones"
    parser.add_argument("-c", "--columns", action="append", default=[], metavar="KEYS", help=columns)
    parser.add_argument("--varying", action="store_true", help="show every setting that differs among the runs")
    parser.add_argument("--sort", metavar="KEY", help="smallest first; --sort=-KEY largest first (default: newest)")
    parser.add_argument("--limit", type=_from(0), metavar="N", help="show N runs, 0 for all (default: 50 in a table)")


def _show(parser: argparse.ArgumentParser) -> None:
    _run(parser)
    parser.add_argument("--config", action="store_true", help="with the whole configuration")
    parser.add_argument("--json", action="store_true", help="everything that is known, as JSON")


def _diff(parser: argparse.ArgumentParser) -> None:
    _folder(parser)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="two or more runs")
    parser.add_argument("--all", action="store_true", help="also what differs in every pair: times, results, process")
    _format(parser)


def _grouped(parser: argparse.ArgumentParser) -> None:
    _runs(parser)
    by = "keys whose values make a group, comma-separated (default: whatever differs but the seed)"
    parser.add_argument("--by", metavar="KEYS", help=by)
    parser.add_argument("--all", action="store_true", help="also runs that did not finish")
    about = f"over seeds: {', '.join(STATISTICS)} (default: iqm)"
    parser.add_argument("--statistic", type=_one_of(STATISTICS), default="iqm", metavar="NAME", help=about)
    parser.add_argument("--metric", metavar="NAME", help="what is compared (default: evaluated returns)")


def _summary(parser: argparse.ArgumentParser) -> None:
    _grouped(parser)
    parser.add_argument("--at", type=_from(0, float), metavar="STEP", help="the value at this step, not the last")
    parser.add_argument("--lower", action="store_true", help="lower is better")
    threshold = "also steps and seconds until an evaluation reaches X"
    parser.add_argument("--threshold", type=float, metavar="X", help=threshold)
    parser.add_argument("--baseline", metavar="GROUP", help="compare all with this group, not with the best one")
    parser.add_argument("--across", metavar="KEY", help="one score over several tasks, such as env")
    reference = "what counts as 0 and as 1 in a task (default: the worst and the best of these runs)"
    parser.add_argument(
        "--reference", type=_reference, action="append", default=[], metavar="TASK=LOW,HIGH", help=reference
    )
    parser.add_argument("--resamples", type=_from(100), default=10_000, metavar="N", help="of the bootstrap")


def _compare(parser: argparse.ArgumentParser) -> None:
    _summary(parser)
    parser.add_argument("--profile", action="store_true", help="also the share of runs above each of ten scores")
    _format(parser)


def _plot(parser: argparse.ArgumentParser) -> None:
    _grouped(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="PNG, SVG or PDF (default: the terminal)")
    parser.add_argument("--x", type=_one_of(("step", "time")), default="step", metavar="AXIS", help="step or time")
    bands = ("interval", "range", "std", "none")
    parser.add_argument("--band", type=_one_of(bands), default="interval", metavar="BAND", help=", ".join(bands))
    smooth = "mean over the last N points of a run, or with N below 1 an exponential average"
    parser.add_argument("--smooth", type=_from(0, float), default=0.0, metavar="N", help=smooth)
    parser.add_argument("--each", action="store_true", help="also every run by itself")
    parser.add_argument("--kind", type=_one_of(("curves", "scores", "profile")), default="curves", metavar="KIND")
    parser.add_argument("--title")
    parser.add_argument("--size", type=_size, default=(6.4, 4.0), metavar="WxH", help="inches (default: 6.4x4)")
    parser.add_argument("--log", action="store_true", help="a logarithmic vertical axis")


def _table(parser: argparse.ArgumentParser) -> None:
    _summary(parser)
    _format(parser, "markdown")


def _export(parser: argparse.ArgumentParser) -> None:
    _runs(parser)
    kinds = ("runs", "metrics", "evaluations", "episodes")
    parser.add_argument("--rows", type=_one_of(kinds), default="runs", metavar="KIND", help=", ".join(kinds))
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=".parquet or .csv")


def _report(parser: argparse.ArgumentParser) -> None:
    _summary(parser)
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"), metavar="FILE", help="HTML")
    parser.add_argument("--title", default="Runs")
    parser.add_argument("--videos", action="store_true", help="with the newest video of each run in the file")


def _serve(parser: argparse.ArgumentParser) -> None:
    _summary(parser)
    parser.add_argument("--title", default="Runs")
    parser.add_argument("--port", type=_from(0), default=0, metavar="N", help="(default: any)")
    bind = "listen there; all but loopback opens the page to a network (default: 127.0.0.1)"
    parser.add_argument("--bind", default="127.0.0.1", metavar="ADDRESS", help=bind)
    name = "another name that this machine is called by, beside a --bind to a network"
    parser.add_argument("--name", action="append", default=[], metavar="HOST", help=name)


def _tail(parser: argparse.ArgumentParser) -> None:
    _run(parser)
    parser.add_argument("-n", "--rows", type=_from(0), default=10, metavar="N", help="earlier rows to show")
    parser.add_argument("--no-follow", dest="follow", action="store_false", help="do not wait for more")
    parser.add_argument("-c", "--columns", metavar="NAMES", help="metrics to show, comma-separated")


def _metrics(parser: argparse.ArgumentParser) -> None:
    _folder(parser)
    parser.add_argument("algorithms", nargs="*", metavar="ALGORITHM", help="only of these (default: all)")
    _format(parser)


def _verify(parser: argparse.ArgumentParser) -> None:
    _runs(parser)
    parser.add_argument("--seal", action="store_true", help="write SHA256SUMS where a run is whole and has none")
    _format(parser)


def _archive(parser: argparse.ArgumentParser) -> None:
    _runs(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="a new .tar.gz")
    parser.add_argument("--remove", action="store_true", help="delete the runs once they are in it")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def _rm(parser: argparse.ArgumentParser) -> None:
    _runs(parser)
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument("--force", action="store_true", help="also runs that are still running")


def _reproduce(parser: argparse.ArgumentParser) -> None:
    _run(parser)
    parser.add_argument("--dry", action="store_true", help="only say what differs here, run nothing")
    package = "where components may come from, beside rlresearch"
    flags = ("--packages", "--package")  # the second is version 0.1's
    parser.add_argument(*flags, nargs="+", action="extend", dest="packages", default=[], metavar="NAME", help=package)
    parser.add_argument("--config-dir", metavar="FOLDER", help="a folder with components of your own")
    parser.add_argument("--init-from", metavar="RUN", help="the run whose parameters it began with, if it did")


def _sync(parser: argparse.ArgumentParser) -> None:
    _runs(parser)
    mirrors = ("wandb", "tensorboard")
    about = ", ".join(mirrors)
    parser.add_argument("--to", type=_one_of(mirrors), required=True, metavar="MIRROR", help=about)
    for name in ("project", "entity", "group"):
        parser.add_argument(f"--{name}", metavar="NAME", help="of W&B's (default: as the run was configured)")
    wait = "seconds to wait for W&B to take a run (default: 120)"
    parser.add_argument("--wait", type=_from(1, float), default=120.0, metavar="S", help=wait)


def _import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs-dir", default="runs", metavar="PATH", help="where run directories are made")
    parser.add_argument("sources", nargs="+", type=Path, metavar="FILE or FOLDER", help="what to read")
    parser.add_argument("--algo", default="unknown", metavar="NAME", help="the algorithm's name")
    parser.add_argument("--env", metavar="NAME", help="the environment's name (default: what the file says)")
    about = "of the first run, the others count up (default: as the files and folders are named, else from 0)"
    parser.add_argument("--seed", type=int, metavar="N", help=about)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting, as algo.gamma=0.9")


COMMANDS = {
    "ls": Command("commands.list", "list runs, one line each", _ls),
    "show": Command("commands.show", "all about one run, and why it failed", _show),
    "diff": Command("commands.show", "what differs between runs: configuration, versions, commit", _diff),
    "compare": Command("commands.compare", "groups of runs over their seeds, with intervals", _compare),
    "table": Command("commands.compare", "the same as a table for a paper: Markdown or LaTeX", _table),
    "plot": Command("commands.plot", "learning curves with bands, into a file or the terminal", _plot),
    "report": Command("commands.report", "one HTML file with tables and interactive charts", _report),
    "serve": Command("web.serve", "the report as a live page, for this machine alone", _serve),
    "export": Command("commands.export", "Parquet or CSV for other tools", _export),
    "tail": Command("commands.show", "follow a run that goes on", _tail),
    "metrics": Command("commands.metrics", "what every metric means", _metrics),
    "verify": Command("commands.maintain", "find damaged or altered run directories", _verify),
    "archive": Command("commands.maintain", "pack runs into one file", _archive),
    "rm": Command("commands.maintain", "delete runs", _rm),
    "reproduce": Command("commands.reproduce", "run one again from its stored configuration, and compare", _reproduce),
    "sync": Command("commands.sync", "mirror runs into W&B or TensorBoard afterwards, each row once", _sync),
    "import": Command(
        "commands.import_runs", "runs made elsewhere: SB3's files, TensorBoard's, W&B's offline ones", _import
    ),
}
