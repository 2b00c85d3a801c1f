"""The structural bounds that tests hold the package to."""

import tomllib
from pathlib import Path

FILE = Path(__file__).parents[1] / "architecture" / "bounds.toml"
BOUNDS = tomllib.loads(FILE.read_text())
