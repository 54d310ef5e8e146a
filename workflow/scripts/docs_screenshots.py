"""Take the pictures of the demo, docs/images/results.png and app.jpg, with chromium."""

import argparse
import io
import json
import re
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

REPO = Path(__file__).resolve().parents[2]
IMAGES = REPO / "docs" / "images"
CLIPS = REPO / "demo" / "clips"
QUERY = CLIPS / "say_dog.mp4"
PROGRAM = [sys.executable, "-m", "clip4vla"]
sys.path.insert(0, str(REPO / "tests" / "helpers"))

from browser import CHROMIUM, Browser  # noqa: E402


def results(browser: Browser, demo: Path) -> None:
    """Photograph the first screen of the page of results at 1280 x 860 pixels."""
    browser.size(1280, 860)
    browser.call("Page.navigate", url=(demo / "results" / "index.html").as_uri())
    browser.wait("document.readyState === 'complete'")
    browser.screenshot(IMAGES / "results.png")


def search(browser: Browser, demo: Path) -> None:
    """Photograph the page that searches, 1280 x 900 pixels, with a clip as the query."""
    index = demo / "clips.index"
    weights = demo / "results" / "runs" / pretrained(demo) / "model.safetensors"
    command = ["index", CLIPS, "--checkpoint", weights, "--out", index]
    subprocess.run([*PROGRAM, *command], check=True)
    with app(index) as address, tempfile.NamedTemporaryFile(suffix=".png") as picture:
        browser.size(1280, 900)
        browser.open(address)
        browser.choose("#file", QUERY)
        browser.wait("document.querySelector('#status').textContent.includes('best')")
        browser.wait("[...document.images].every(image => image.complete)")
        browser.screenshot(Path(picture.name))
        content = io.BytesIO(Path(picture.name).read_bytes())
        Image.open(content).convert("RGB").save(IMAGES / "app.jpg", quality=85)


@contextmanager
def app(index: Path) -> "Iterator[str]":
    """Serve an index with `clip4vla app` on any free port; give its address."""
    command = [*PROGRAM, "app", str(index), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield next(
                found[0] for line in process.stderr if (found := re.search(r"http://\S+", line))
            )
        finally:
            process.terminate()


def pretrained(demo: Path) -> str:
    """Return the run key of the pre-training behind a row of the retrieval table."""
    table = json.loads((demo / "results" / "tables" / "demo_retrieval" / "rows.json").read_text())
    (cells,) = (row["cells"] for row in table["rows"] if row["row"] == "clip4vla")
    metrics = demo / "results" / "runs" / cells[0]["run_key"] / "metrics.json"
    return json.loads(metrics.read_text())["checkpoint"]["run_key"]


def main() -> None:
    """Take both pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=REPO / "build" / "demo", help="its outputs")
    demo = parser.parse_args().demo.resolve()
    if not (demo / "results" / "index.html").is_file():
        sys.exit(f"{demo}: no results. Fix: run `make demo`")
    if CHROMIUM is None:
        sys.exit("chromium: not installed. Fix: install Debian's package `chromium`")
    with tempfile.TemporaryDirectory() as profile, Browser(profile) as browser:
        results(browser, demo)
        search(browser, demo)


if __name__ == "__main__":
    main()
