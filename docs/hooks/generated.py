"""What a page asks for by a comment, `<!-- generated: settings buffer -->`, from `reference` and from the commands.

settings GROUP ...       every option of these groups, each with its table; `settings top` for keys of no group
settings GROUP=OPTION    the table of one option
options                  every group and its options, a line each
environments             the options of env= in a table
initializers             what may initialise a network
metrics [ALGORITHM]      what a metric means, of all runs or of one algorithm's
metrics-of-all           the metrics of every algorithm, under a heading each
scores ALGORITHM ...     the rows of the table of scores that are about these
help MODULE              what `python -m MODULE --help` prints
review                   the same of every command of rlresearch-review
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any
from unittest import mock

import layout
import reference
import yaml

from rlresearch.networks import INITIALIZERS
from rlresearch.review import cli as review
from rlresearch.review.commands import metrics as metrics_of

_ASKED = re.compile(r"^<!-- generated: (.+?) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fills in what the comments ask for."""
    return _ASKED.sub(lambda match: "\n".join(made(*match[1].split())), markdown)


def made(what: str, *arguments: str) -> Iterator[str]:
    """The lines of Markdown that a comment stands for. KeyError where there is no such thing."""
    makers = {"settings": settings, "options": options, "environments": environments, "initializers": initializers}
    makers |= {"metrics": metrics, "metrics-of-all": metrics_of_all, "scores": scores}
    return (makers | {"help": help_of, "review": review_commands})[what](*arguments)


def settings(*chosen: str) -> Iterator[str]:
    for each in chosen:
        group, single, name = each.partition("=")
        if each == "top":
            yield from _table(reference.top())
        elif single:
            yield from _option(reference.option(group, name))
        else:
            yield from (f"## `{group}`", "")
            for name in reference.groups()[group]:
                yield from (f"### `{group}={name}`", "")
                yield from _option(reference.option(group, name))


def _option(option: reference.Option) -> Iterator[str]:
    if about := _about(option):
        yield from (about, "")
    if option.group in reference.RECIPES:
        yield from ("```yaml", *_body(option.text), "```", "")
        return
    if option.target:
        yield from (f"Class: `{option.target}`.", "")
    if option.chooses:
        chosen = ", ".join(f"`{key}={value}`" for key, value in option.chooses.items())
        yield from (f"It chooses {chosen}.", "")
    if option.sets:
        yield from (
            f"It sets {', '.join(f'`{key}={reference.format_value(value)}`' for key, value in option.sets.items())}.",
            "",
        )
    if option.settings:
        yield from _table(option.settings)
    else:
        yield from ("It has no settings.", "")


def _about(option: reference.Option) -> str:
    """What heads the option's file, without the sentences that say where its settings are explained: here."""
    sentences = re.split(r"(?<=[.!]) (?=[A-Z`r])", option.about)
    return " ".join(
        each for each in sentences if "settings are explained" not in each and "explains the settings" not in each
    )


def _body(text: str) -> list[str]:
    """A file's YAML without the comment that heads it."""
    lines = text.splitlines()
    while lines and lines[0].startswith("#"):
        lines.pop(0)
    return lines or ["{}"]


def _table(rows: list[reference.Setting]) -> Iterator[str]:
    yield from ("| key | default | allowed | meaning |", "|---|---|---|---|")
    for row in rows:
        yield f"| `{row.key}` | {_code(row.default)} | {_cell(row.allowed)} | {_cell(row.meaning)} |"
    yield ""


def options() -> Iterator[str]:
    for group, names in reference.groups().items():
        yield from (f"## `{group}`", "", "| option | what it is |", "|---|---|")
        for name in names:
            yield f"| `{group}={name}` | {_cell(_about(reference.option(group, name)))} |"
        yield ""


def environments() -> Iterator[str]:
    yield from ("| option | Gymnasium's name | compiled | what it is |", "|---|---|---|---|")
    for name in reference.groups()["env"]:
        env = yaml.safe_load(reference.option("env", name).text)["env"]
        identity = "any" if env["id"] == "???" else f"`{env['id'].rpartition(':')[2]}`"
        compiled = "yes" if "physics" in env else "no"
        yield f"| `env={name}` | {identity} | {compiled} | {_cell(_about(reference.option('env', name)))} |"
    yield ""


def metrics(algorithm: str | None = None) -> Iterator[str]:
    known = metrics_of.documented(algorithm) if algorithm else metrics_of.everywhere()
    yield from ("| metric | unit | meaning |", "|---|---|---|")
    for name, metric in known.items():
        if algorithm is None or name not in metrics_of.everywhere():
            yield f"| `{name}` | {_cell(metric.unit)} | {_cell(metric.meaning)} |"
    yield ""


def metrics_of_all() -> Iterator[str]:
    for algorithm in reference.groups()["algo"]:
        yield from (f"## `algo={algorithm}`", "", *metrics(algorithm))


def initializers() -> Iterator[str]:
    yield from ("| initializer | what it is |", "|---|---|")
    for name, about in INITIALIZERS.items():
        yield f"| `{name}` | {_cell(about)} |"
    yield ""


def scores(*algorithms: str) -> Iterator[str]:
    lines = (layout.DOCS / "evidence" / "scores.md").read_text(encoding="utf-8").splitlines()
    head, rule, *rows = [line for line in lines if line.startswith("|")]
    own = [row for row in rows if any(re.match(rf"\| `algo={name} ", row) for name in algorithms)]
    if own:
        yield from ("Ten seeds. [Scores](../evidence/scores.md) says how they were measured.", "", head, rule, *own, "")
    else:
        yield from ("Not measured yet.", "")


def help_of(command: str, *words: str) -> Iterator[str]:
    yield from ("```text", *_help(command, *words).rstrip().splitlines(), "```", "")


@cache
def _help(module: str, *words: str) -> str:
    """What `python -m MODULE WORDS --help` prints."""
    printed = io.StringIO()
    with (
        contextlib.redirect_stdout(printed),
        mock.patch.dict(os.environ, {"COLUMNS": "88"}),
        contextlib.suppress(SystemExit),
    ):
        import_module(module).main([*words, "--help"])
    return printed.getvalue()


def review_commands() -> Iterator[str]:
    for name in review.COMMANDS:
        yield from (f"### `{name}`", "", *help_of("rlresearch.review.__main__", name))


def _code(text: str) -> str:
    return f"`{text}`" if not text.startswith("none:") else text.removeprefix("none: ")


def _cell(text: str) -> str:
    """Text for a table's cell. What Markdown would read as emphasis, a link or attributes stays what it is."""
    return re.sub(r"[\[\]*|{}]", lambda match: f"\\{match[0]}", text.replace("<", "&lt;"))
