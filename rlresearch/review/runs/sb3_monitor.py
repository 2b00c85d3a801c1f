"""Stable-Baselines3's monitor.csv: an episode a row, a file an environment; those of one run are put together.

A file begins with a line of JSON (`t_start`, `env_id`) and one of names (`r,l,t`: return, length, seconds since the
start). A run that went on later has appended to it: with a header of its own, or without one, where `t` begins anew.
What a killed process has torn is left out. Steps are added over environments in order of time, as SB3's own
`load_results` and `ts2xy` do.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class Episode(NamedTuple):
    """time: in seconds since the start of its session, later since the start of the run."""

    time: float
    value: float
    length: int


@dataclass
class Session:
    """What one process wrote into a file. began: in seconds since 1970, None where the file does not say."""

    began: float | None
    episodes: list[Episode] = field(default_factory=list)


class Monitor(NamedTuple):
    """A file. left_out: how many of its rows cannot be read."""

    env: str | None
    sessions: list[Session]
    left_out: int


def read(path: Path) -> Monitor:
    """The episodes of a file. Errors: OSError; ValueError where it is no monitor.csv."""
    text = path.read_bytes().decode("utf-8", "replace")
    env, sessions, names, left_out = None, list[Session](), list[str](), 0
    for line in text.splitlines(keepends=True):
        if line.startswith("#"):
            about = _header(line)
            env = env or about.get("env_id")
            began = about.get("t_start")
            sessions.append(Session(float(began) if isinstance(began, int | float) else None))
        elif sessions and {"r", "l", "t"} <= set(fields := _fields(line)):
            names = fields
        elif line.strip():
            left_out += not (names and _add(sessions, dict(zip(names, _fields(line))), line.endswith(("\n", "\r"))))
    if not sessions or not names:
        raise ValueError("it is empty" if not text.strip() else "it does not begin with a line of JSON and r,l,t")
    return Monitor(env, sessions, left_out)


def together(monitors: Sequence[Monitor]) -> tuple[float | None, list[Episode]]:
    """When the run began, and the episodes of all its environments in order of time since then."""
    found: list[Episode] = []
    began, end = None, 0.0
    for number in range(max((len(each.sessions) for each in monitors), default=0)):
        sessions = [each.sessions[number] for each in monitors if number < len(each.sessions)]
        starts = [each.began for each in sessions if each.began is not None]
        began = min(starts, default=None) if began is None else began
        # A session began when all before it had ended, if it says nothing else, or a time that cannot be.
        bases = [end if each.began is None or began is None else max(end, each.began - began) for each in sessions]
        own = [
            each._replace(time=base + each.time)
            for base, session in zip(bases, sessions, strict=True)
            for each in session.episodes
        ]
        found += sorted(own, key=lambda each: each.time)
        end = max((each.time for each in found), default=0.0)
    return began, found


def rows(episodes: Iterable[Episode]) -> dict[int, dict[str, float]]:
    """Rows of metrics by step."""
    made: dict[int, dict[str, float]] = {}
    step = 0
    for number, each in enumerate(episodes, start=1):
        step += each.length
        made[step] = {"time": round(each.time, 6), "train/return": each.value, "train/length": each.length}
        made[step]["train/episodes"] = number
    return made


def _header(line: str) -> dict:
    try:
        about = json.loads(line.removeprefix("#"))
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}


def _fields(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


def _add(sessions: list[Session], row: dict[str, str], whole: bool) -> bool:
    """Adds an episode, and says whether it could be read. whole: whether its line has an end."""
    try:
        episode = Episode(float(row["t"]), float(row["r"]), int(float(row["l"])))
    except (KeyError, ValueError, OverflowError):
        return False
    if not 0 <= episode.time < float("inf") or episode.length < 1:
        return False
    before = sessions[-1].episodes[-1].time if sessions[-1].episodes else 0.0
    if not whole:  # the time is its last number, and may be torn
        episode = episode._replace(time=max(before, episode.time))
    if episode.time < before:  # appended by a process that has begun to count anew
        sessions.append(Session(None))
    sessions[-1].episodes.append(episode)
    return True
