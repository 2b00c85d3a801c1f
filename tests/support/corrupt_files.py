"""How a run directory is made without TensorFlow, and how one thing in it is spoilt.

What is signed by a digest is signed again, since whoever makes such a file can do that too. A spoiler is called with
the run and a folder outside it, whose name stands for OUTSIDE in what it writes.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from support.make_runs import evaluation_rows, metrics_rows

from rlresearch.config.compose import compose
from rlresearch.storage import checkpoint, tensor_files
from rlresearch.storage.checkpoint import Writer
from rlresearch.storage.jsonl import JsonLines
from rlresearch.storage.manifest import CheckpointMetadata
from rlresearch.storage.run_directory import RunDirectory
from rlresearch.storage.tensor_files import Ring
from rlresearch.training import resume, run_directories

STEP, NAME = 1000, "000000001000"


def make_run(path: Path) -> None:
    """A finished run with a checkpoint whose arrays no program needs."""
    config = compose(["algo=ddpg", "env=pendulum", "tuned=none", "total_steps=2000"]).config
    path.mkdir(parents=True)
    run = RunDirectory(path)
    fields = {"schema_version": 1, "status": "interrupted", "algo": "ddpg", "env": "pendulum", "seed": 0, "resumes": []}
    fields |= {
        "started_at": "2026-11-21T10:00:00.000Z",
        "finished_at": "2026-11-21T10:10:00.000Z",
        "wall_time_s": 600.0,
    }
    fields |= {
        "host": "there",
        "pid": 1,
        "device": "cpu",
        "python": "3.11.0",
        "packages": {"numpy": "2"},
        "choices": {},
    }
    fields |= {"command": "python -m rlresearch", "overrides": [], "git": None, "package_git": None, "population": None}
    fields |= {"total_steps": STEP, "final_evaluation": {"step": STEP, "mean": -150.0, "std": 1.0, "episodes": 4}}
    fields |= {"reason": None, "state_digest": "0" * 32, "nondeterminism": None}
    fields |= {"training_time_s": 500.0, "wall_time_s": 600.0}
    run.record(**fields)
    run_directories.write_config(run, config)
    (path / "log.txt").write_text("2026-11-21T10:00:00Z INFO rlresearch: begun\n")
    for name, rows in (("metrics", metrics_rows()), ("evaluations", evaluation_rows())):
        file = JsonLines(path / f"{name}.jsonl")
        for row in rows:
            file.write(row)
        file.close()
    _save(path)


def _save(path: Path) -> None:
    column = np.zeros((STEP, 8), np.float32)
    rows = lambda begin, end: {"float32": column[begin:end]}  # noqa: E731
    rings = {"state.buffer": Ring(100_000, STEP, rows)}
    about = CheckpointMetadata(
        step=STEP,
        iteration=STEP,
        members=[0],
        position={"fresh": True, "row": STEP, "evaluation": STEP},
        logs=[{name: (path / f"{name}.jsonl").stat().st_size for name in ("metrics", "evaluations")}],
        times={"wall_time_s": 600.0, "training_time_s": 500.0},
        score=-150.0,
        config=resume.lasting_digest(resume.read_config(path / "config.yaml")),
    )
    writer = Writer(path, keep_last=3)
    arrays = {"state.algo.actor": np.ones((3, 2), np.float32), "state.step": np.array(STEP)}
    writer.save(arrays, rings, writer.unwritten(rings), about, {"numpy": "2"}, "2026-11-21T10:10:00.000Z")
    writer.close()


def record(**fields: Any) -> Callable[[Path, Path], None]:
    """run.json with other fields; OUT in a text is the folder outside."""

    def spoil(run: Path, outside: Path) -> None:
        own = json.loads((run / "run.json").read_text()) | fields
        (run / "run.json").write_text(json.dumps(own).replace("OUTSIDE", str(outside)))

    return spoil


def content(name: str, made: bytes | str) -> Callable[[Path, Path], None]:
    """A file of the run with another content."""

    def spoil(run: Path, outside: Path) -> None:
        raw = made.encode() if isinstance(made, str) else made
        file = _place(run, name)
        file.unlink(missing_ok=True)
        file.write_bytes(raw.replace(b"OUTSIDE", os.fsencode(outside)))

    return spoil


def _place(run: Path, name: str) -> Path:
    """A file by its name; ROWS is the one file of replay."""
    if name.endswith("ROWS"):
        return next((run / "checkpoints" / "replay").glob("*.rows"))
    return run / name


def setting(key: str, value: Any) -> Callable[[Path, Path], None]:
    """config.yaml with another value, which the checkpoint vouches for."""

    def spoil(run: Path, outside: Path) -> None:
        config = yaml.safe_load((run / "config.yaml").read_text())
        *path, last = key.split(".")
        node = config
        for name in path:
            node[name] = node.get(name) if isinstance(node.get(name), dict) else {}
            node = node[name]
        node[last] = json.loads(json.dumps(value).replace("OUTSIDE", str(outside)))
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        manifest(lambda fields: fields["about"].update(config=_lasting(run)))(run, outside)

    return spoil


def _lasting(run: Path) -> str:
    try:
        return resume.lasting_digest(resume.read_config(run / "config.yaml"))
    except Exception:  # noqa: BLE001 (what cannot be read needs no digest)
        return ""


def manifest(change: Callable[[dict], None]) -> Callable[[Path, Path], None]:
    """manifest.json changed, and signed again."""

    def spoil(run: Path, outside: Path) -> None:
        file = run / "checkpoints" / NAME / "manifest.json"
        fields = json.loads(file.read_text())
        del fields["digest"]
        change(fields)
        file.write_bytes(checkpoint.signed(fields).replace(b"OUTSIDE", os.fsencode(outside)))

    return spoil


def state(blob: bytes) -> Callable[[Path, Path], None]:
    """state.safetensors with another content, which the manifest vouches for."""

    def spoil(run: Path, outside: Path) -> None:
        (run / "checkpoints" / NAME / "state.safetensors").write_bytes(blob)
        signed = {"state_size": len(blob), "state_digest": tensor_files.digest(blob)}
        manifest(lambda fields: fields.update(signed))(run, outside)

    return spoil


def rows(blob: bytes) -> Callable[[Path, Path], None]:
    """The file of replay rows with another content, which the manifest vouches for."""

    def spoil(run: Path, outside: Path) -> None:
        file = _place(run, "ROWS")
        file.write_bytes(blob)

        def change(fields: dict) -> None:
            fields["rings"]["state.buffer"]["files"][0].update(size=len(blob), digest=tensor_files.digest(blob))

        manifest(change)(run, outside)

    return spoil


def tensors(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors blob with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def linked(name: str, to: str) -> Callable[[Path, Path], None]:
    """A link in place of a file or folder; OUTSIDE is the folder outside, which then has what was there."""

    def spoil(run: Path, outside: Path) -> None:
        file = _place(run, name)
        if to == "OUTSIDE":
            os.rename(file, outside / "taken")
            file.symlink_to(outside / "taken")
        else:
            file.unlink() if not file.is_dir() else None
            file.symlink_to(to.replace("OUTSIDE", str(outside)))

    return spoil


def pipe(name: str) -> Callable[[Path, Path], None]:
    """A named pipe that nobody writes to."""

    def spoil(run: Path, outside: Path) -> None:
        _place(run, name).unlink()
        os.mkfifo(_place(run, name) if name.endswith("ROWS") is False else run / "checkpoints" / "replay" / "rows.rows")

    return spoil


def folder(name: str) -> Callable[[Path, Path], None]:
    def spoil(run: Path, outside: Path) -> None:
        _place(run, name).unlink()
        (run / name).mkdir()

    return spoil


def both(first: Callable, second: Callable) -> Callable[[Path, Path], None]:
    def spoil(run: Path, outside: Path) -> None:
        first(run, outside)
        second(run, outside)

    return spoil


def linked_new(name: str) -> Callable[[Path, Path], None]:
    return lambda run, outside: (run / name).symlink_to(outside / "secret.txt")
