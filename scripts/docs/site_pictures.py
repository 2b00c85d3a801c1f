"""Draws docs/pictures/docs_*.png: the site of docs/ as Chromium shows it.

    python scripts/docs/site_pictures.py [FOLDER]

Builds the site into FOLDER (default: a temporary one), serves it on the loopback address, and photographs the start,
an algorithm, settings, and a search. Needs Chromium, and playwright (`pip install '.[browser,docs]'`). Exit code 1 if
a page asks for anything from elsewhere.
"""

from __future__ import annotations

import functools
import http.server
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "pictures"
SHOWN = {
    "start": "index.html",
    "algorithm": "algorithms/sac.html",
    "settings": "reference/settings/algorithms.html#algoppo",
    "search": "index.html",
}
SIZE, WIDTH = {"width": 1_280, "height": 800}, 800


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing of it."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


def main() -> int:
    """Builds, serves, draws."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        build = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", "docs/mkdocs.yml", "-d", str(folder)]
        subprocess.run(build, cwd=ROOT, check=True)
        handler = functools.partial(Quiet, directory=str(folder))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            outside = draw(f"http://127.0.0.1:{server.server_port}")
            server.shutdown()
    for address in outside:
        print(f"asked for: {address}")
    return 1 if outside else 0


def draw(site: str) -> list[str]:
    """The pictures; the addresses outside the site that its pages asked for."""
    from playwright.sync_api import sync_playwright

    outside: list[str] = []
    with sync_playwright() as started:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = started.chromium.launch(executable_path=chromium, args=["--headless=new", "--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.on("request", lambda asked: outside.append(asked.url) if asked.url.startswith("http") else None)
        for name, address in SHOWN.items():
            page.goto(f"{site}/{address}")
            if name == "search":
                page.click(".md-search__input")
                page.keyboard.type("prioritized")
                page.wait_for_selector(".md-search-result__item")
            page.wait_for_timeout(500)  # for what glides into its place
            file = PICTURES / f"docs_{name}.png"
            page.screenshot(path=file)
            small = Image.open(file).convert("RGB")
            small = small.resize((WIDTH, small.height * WIDTH // small.width), Image.Resampling.LANCZOS)
            small.quantize(64).save(file, optimize=True)
        browser.close()
    return [address for address in outside if not address.startswith(site)]


if __name__ == "__main__":
    sys.exit(main())
