"""`export`: writes runs or their rows as one table, Parquet or CSV, for pandas, polars, R or a spreadsheet.

In tables of metrics, evaluations and episodes, the column `run` is the key of the run in the table of runs.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from rlresearch.errors import ConfigError, RunError
from rlresearch.optional import import_optional
from rlresearch.review import files, tables
from rlresearch.review.runs import query, reader
from rlresearch.review.runs.index import Index
from rlresearch.review.runs.reader import Run

_FIRST = ("run", "algo", "env", "seed")
_EPISODES = ("step", "time", "episode", "return", "length")

Block = dict[str, Sequence[Any] | np.ndarray]


def export(arguments: argparse.Namespace) -> int:
    """Writes the table."""
    suffix = arguments.output.suffix.lower()
    if suffix not in (".parquet", ".csv"):
        raise ConfigError(f"--output={arguments.output}: must end in .parquet or .csv.")
    with Index(arguments.runs_dir, arguments.cache) as index:
        runs = query.choose(index, arguments.runs, arguments.since, arguments.status).runs
    if not runs:
        raise ConfigError(f"{arguments.runs_dir}: no run is meant, so there is nothing to export.")
    kinds = {"runs": _runs, "metrics": _metrics, "evaluations": _evaluations, "episodes": _episodes}
    names, blocks = kinds[arguments.rows](runs)
    with files.atomic_path(arguments.output) as fresh:
        count = (_parquet if suffix == ".parquet" else _csv)(fresh, names, blocks)
    print(f"wrote {arguments.output} ({count:,} rows, {len(names)} columns)")
    return 0


def _runs(runs: Sequence[Run]) -> tuple[list[str], Iterator[Block]]:
    names = ["run", *query.keys(runs)]
    columns = {"run": [run.key for run in runs]} | {
        name: _one_kind([run.values.get(name) for run in runs]) for name in names[1:]
    }
    return names, iter([columns])


def _metrics(runs: Sequence[Run]) -> tuple[list[str], Iterator[Block]]:
    found = dict.fromkeys(n for run in runs for n in run.values if "/" in n and not n.startswith("eval/"))
    return _rows(runs, list(found), reader.metrics)


def _evaluations(runs: Sequence[Run]) -> tuple[list[str], Iterator[Block]]:
    found = dict.fromkeys(name for run in runs for name in run.values if name.startswith("eval/"))
    return _rows(runs, list(found), reader.evaluations)


def _episodes(runs: Sequence[Run]) -> tuple[list[str], Iterator[Block]]:
    def of(run: Run) -> Block:
        rows = []
        for row in reader.json_rows(run.path / "evaluations.jsonl"):
            told = [row.get(name) for name in ("returns", "lengths")]
            returns, lengths = ([_number(each) for each in own] if isinstance(own, list) else [] for own in told)
            for at, value in enumerate(returns):
                length = lengths[at] if at < len(lengths) else np.nan
                rows.append((_number(row.get("step")), _number(row.get("time")), at, value, length))
        columns = np.array(rows, dtype=np.float64).reshape(-1, len(_EPISODES)).T
        return _named(run, len(rows)) | dict(zip(_EPISODES, columns))

    return [*_FIRST, *_EPISODES], (of(run) for run in runs)


def _number(value: Any) -> float:
    with suppress(OverflowError):
        return float(value) if isinstance(value, int | float) else np.nan
    return np.nan


def _rows(runs: Sequence[Run], names: Sequence[str], read: Any) -> tuple[list[str], Iterator[Block]]:
    every = ["step", "time", *names]

    def of(run: Run) -> Block:
        columns = read(run.path)
        count = len(columns.get("step", ()))
        return _named(run, count) | {name: columns.get(name, np.full(count, np.nan)) for name in every}

    return [*_FIRST, *every], (of(run) for run in runs)


def _named(run: Run, count: int) -> Block:
    algo, env = (tables.text(run.values.get(key)) for key in ("algo", "env"))
    seed = run.values.get("seed")
    seed = seed if isinstance(seed, int) else None
    return {"run": [run.key] * count, "algo": [algo] * count, "env": [env] * count, "seed": [seed] * count}


def _one_kind(values: Sequence[Any]) -> list[Any]:
    """Returns a column with one type: numbers, booleans, or otherwise text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or kinds == {bool}:
        return list(values)
    return [None if value is None else query.written(value) for value in values]


def _csv(path: Path, names: Sequence[str], blocks: Iterable[Block]) -> int:
    count = 0
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for block in blocks:
            lists = [each.tolist() if isinstance(each, np.ndarray) else each for each in map(block.get, names)]
            for row in zip(*lists):
                writer.writerow(["" if tables.absent(value) else tables.cell(value) for value in row])
                count += 1
    return count


def _parquet(path: Path, names: Sequence[str], blocks: Iterable[Block]) -> int:
    arrow, parquet = (
        import_optional("pyarrow", "export to Parquet"),
        import_optional("pyarrow.parquet", "export to Parquet"),
    )
    writer, count = None, 0
    try:
        for block in blocks:
            table = _arrow_table(arrow, names, block)
            writer = writer or parquet.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
            count += table.num_rows
    except arrow.ArrowInvalid as error:
        raise RunError(f"{path.name}: {error}") from error
    finally:
        if writer is not None:
            writer.close()
    return count


def _arrow_table(arrow: Any, names: Sequence[str], block: Block) -> Any:
    columns = []
    for name in names:
        values = block[name]
        kind = {"run": arrow.string(), "algo": arrow.string(), "env": arrow.string(), "seed": arrow.int64()}.get(name)
        if isinstance(values, np.ndarray):
            columns.append(arrow.array(values, from_pandas=True))  # NaN becomes null
        else:
            columns.append(arrow.array(values, type=kind))
    return arrow.table(columns, names=list(names))
