"""`report`: writes everything about a set of runs into one HTML file, which needs no network and no server.

The file contains the page's script and style, and plotly's script from the installed package. A content security
policy allows only these scripts. The data of the runs is JSON in a block that the browser never executes; the page's
script shows it only as text.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import html
import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlresearch.errors import ConfigError
from rlresearch.review import files, tables
from rlresearch.review.commands import compare
from rlresearch.review.runs import query
from rlresearch.review.runs.index import Index
from rlresearch.review.runs.reader import Run
from rlresearch.review.web import payload, videos

_PAGE = Path(__file__).parents[1] / "page"
_SCRIPTS = ("text.js", "charts.js", "groups.js", "runs.js", "page.js")  # joined in this order into one function
LARGEST_CLIPS = 100 << 20  # bytes of all videos together in one report
_MARKERS = re.compile(r"@(TITLE|POLICY|STYLE|DATA|PLOTLY|SCRIPT)@")


def report(arguments: argparse.Namespace) -> int:
    """Writes the report."""
    with Index(arguments.runs_dir, arguments.cache) as index:
        runs = query.choose(index, arguments.runs, arguments.since, arguments.status).runs
        if not runs:
            raise ConfigError(f"{arguments.runs_dir}: no run is meant, so there is nothing to report.")
        data = everything(index, runs, arguments)
        if arguments.videos:
            data["clips"] = _clips(runs, data["videos"])
        page = render(data, arguments.title)
    with files.atomic_path(arguments.output) as fresh:
        fresh.write_bytes(page)
    print(f"wrote {arguments.output} ({len(page) / 1e6:.1f} MB, {len(runs):,} runs)")
    return 0


def everything(index: Index, runs: Sequence[Run], arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns all data of the page, except the videos."""
    result = compare.summarize(index, runs, arguments)
    names = payload.metric_names(index, runs)
    made = payload.overview(result, runs, arguments)
    made["metrics"] = [payload.meaning(name, runs) for name in names]
    made["episodes"] = payload.episodes(runs)
    for metric, course in zip(made["metrics"], payload.metric_curves(index, names, result, runs, arguments.statistic)):
        metric |= course
    return made


def render(data: Mapping[str, Any] | None, title: str, sources: str = "") -> bytes:
    """Returns the complete page as bytes. sources: from where it may fetch data; by default, from nowhere."""
    parts = {
        "TITLE": html.escape(title),
        "STYLE": (_PAGE / "page.css").read_text(encoding="utf-8"),
        "DATA": _inert(tables.to_json(data, indent=False)),
        "PLOTLY": closed(plotly_script()),
        "SCRIPT": closed(_script()),
    }
    parts["POLICY"] = policy(parts["PLOTLY"], parts["SCRIPT"], sources=sources)
    # In one pass, so that no inserted text can be read as a marker.
    frame = (_PAGE / "page.html").read_text(encoding="utf-8")
    return _MARKERS.sub(lambda match: parts[match[1]], frame).encode()


def policy(*scripts: str, sources: str = "") -> str:
    """Returns a content security policy that allows only these scripts, and loads only from `sources`."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    # plotly needs inline styles. They are harmless: the policy forbids loading images or fonts from other sources.
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        f"media-src {sources or 'data:'}; base-uri 'none'; form-action 'none'"
        + (f"; connect-src {sources}" if sources else "")
    )


def plotly_script() -> str:
    """Returns plotly.js from the installed package. Errors: ConfigError where plotly is not installed."""
    found = importlib.util.find_spec("plotly")
    path = Path(found.origin).parent / "package_data" / "plotly.min.js" if found and found.origin else None
    if path is None or not path.is_file():
        raise ConfigError("report: needs plotly; install rlresearch again: pip install rlresearch.")
    return path.read_text(encoding="utf-8")


def _script() -> str:
    """Returns the page's scripts as one function, so that their names are not global."""
    parts = [(_PAGE / name).read_text(encoding="utf-8") for name in _SCRIPTS]
    return "\n".join(['"use strict";', "(() => {", *parts, "})();"])


def _clips(runs: Sequence[Run], listed: Mapping[int, Sequence[str]]) -> dict[int, str]:
    """Returns the newest video of each run as base64, by the run's index. Errors: ConfigError for too many bytes."""
    found, left = {}, LARGEST_CLIPS
    for at, names in listed.items():
        file, size = videos.open_video(runs[at].path, names[-1])
        with os.fdopen(file, "rb") as clip:
            left -= size
            if left < 0:
                raise ConfigError(f"--videos: more than {LARGEST_CLIPS >> 20} MB; name fewer runs, or leave it out.")
            found[at] = base64.b64encode(clip.read(size)).decode()
    return found


def _inert(text: str) -> str:
    """Escapes JSON so that it cannot end the HTML block that contains it."""
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def closed(script: str) -> str:
    """Escapes a script so that it cannot end its own HTML block; its meaning in JavaScript does not change."""
    return re.sub(r"</(script)", r"<\\/\1", script, flags=re.IGNORECASE).replace("<!--", r"<\!--")
