"""The afternoon of docs/get-started/tutorial.md: sixteen runs, questions about them, and pictures of the answers.

    python scripts/docs/afternoon.py [FOLDER]

Trains three algorithms with five seeds and one run that fails (some minutes; FOLDER keeps them for the next time), asks
about them in a terminal, and draws docs/pictures/curves.png, page.png and failed.png: the last two are the report in
Chromium, which needs playwright (`pip install '.[browser]'`).
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "pictures"
TRAINING = (
    "rlresearch -m algo=ddpg,td3,sac seed=range(5) total_steps=10000 hydra/launcher=fused",
    "rlresearch algo=ddpg seed=5 total_steps=10000 optimizer=sgd optimizer.lr=0.05 logger.every_steps=250",
)
ASKED = (
    "rlresearch-review ls --limit 4",
    "rlresearch-review compare",
    "rlresearch-review show status=failed",
    "rlresearch-review diff status=failed ddpg_pendulum_s4",
    f"rlresearch-review plot --metric train/return --each -o {PICTURES / 'curves.png'}",
    "rlresearch-review report",
)
WIDTH, HEIGHT, OF_THE_FAILED = 1_150, 860, 470


def main() -> int:
    """Trains what is not there, asks, draws."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for command in ASKED if (folder / "runs").is_dir() else (*TRAINING, *ASKED):
            run(command, folder)
        draw(folder / "report.html")
    for name in ("curves", "page", "failed"):
        file = PICTURES / f"{name}.png"
        Image.open(file).convert("RGB").quantize(128).save(file, optimize=True)
    return 0


def run(command: str, folder: Path) -> None:
    """Prints a command and what it says. The run that is to fail does."""
    name, *words = shlex.split(command)
    module = {"rlresearch": "rlresearch", "rlresearch-review": "rlresearch.review"}[name]
    print(f"$ {command}", flush=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    subprocess.run([sys.executable, "-m", module, *words], cwd=folder, env=environment, check=False)


def draw(report: Path) -> None:
    """The top of the page, and the failed run opened in it, in the dark."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = started.chromium.launch(executable_path=chromium, args=["--headless=new", "--no-sandbox"])
        shown = ("page", "light", "each=1&metric=train/return"), ("failed", "dark", "filter=status%3Dfailed")
        for name, scheme, fragment in shown:
            size = {"width": WIDTH, "height": HEIGHT}
            page = browser.new_context(viewport=size, color_scheme=scheme, offline=True).new_page()
            page.goto(f"{report.resolve().as_uri()}#{fragment}")
            page.wait_for_selector("#table tbody tr")
            if name == "page":
                page.evaluate("document.querySelector('#compare').scrollIntoView()")
                page.wait_for_selector("#panels .main-svg")
            else:
                page.click("#table tbody tr td:nth-child(2)")
            page.wait_for_timeout(1_000)  # for plotly to have drawn
            clip = {"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT if name == "page" else OF_THE_FAILED}
            page.screenshot(path=PICTURES / f"{name}.png", clip=clip)
        browser.close()


if __name__ == "__main__":
    sys.exit(main())
