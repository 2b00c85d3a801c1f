"""Where the pages lie: in docs, beside their configuration, which mkdocs itself would refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1]
# Pages that stand in the navigation as soon as they exist.
OPTIONAL = {"Changelog": "changelog.md", "Contributing": "contributing.md"}


def on_config(config: Any) -> Any:
    """Points mkdocs at the pages, and adds those that may be missing to the last tab."""
    config.docs_dir = str(DOCS)
    (last,) = config.nav[-1].values()
    known = [page for entry in last for page in entry.values()]
    last += [{title: page} for title, page in OPTIONAL.items() if page not in known and (DOCS / page).is_file()]
    return config
