"""Take the picture of the demo's page of results, docs/images/results.png, with chromium."""

import argparse
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
IMAGES = REPO / "docs" / "images"
sys.path.insert(0, str(REPO / "tests" / "helpers"))

from browser import CHROMIUM, Browser  # noqa: E402


def main() -> None:
    """Photograph the first screen of a folder's results/index.html at 1280 x 860 pixels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=REPO / "build" / "demo", help="its outputs")
    page = parser.parse_args().demo.resolve() / "results" / "index.html"
    if not page.is_file():
        sys.exit(f"{page}: missing. Fix: run `make demo`")
    if CHROMIUM is None:
        sys.exit("chromium: not installed. Fix: install Debian's package `chromium`")
    with tempfile.TemporaryDirectory() as profile, Browser(profile) as browser:
        browser.size(1280, 860)
        browser.call("Page.navigate", url=page.as_uri())
        browser.wait("document.readyState === 'complete'")
        browser.screenshot(IMAGES / "results.png")


if __name__ == "__main__":
    main()
