"""Take the pictures of docs/tracking.md, of the demo's runs in MLflow's own page, with chromium."""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
IMAGES = REPO / "docs" / "images"
sys.path[:0] = [str(REPO / "tests" / "helpers"), str(REPO / "tests" / "tracking")]

from browser import CHROMIUM, Browser  # noqa: E402
from mlflow_servers import Server  # noqa: E402

PLUS = "[data-component-id$='runnamecellrenderer.tsx_46']"  # unfolds the seeds of a row
DRAWN = 8.0  # seconds from the last text of a page until its table or curves are drawn


class Page:
    """MLflow's page in a browser."""

    def __init__(self, browser: Browser, uri: str):
        self.browser, self.uri = browser, uri

    def open(self, route: str, text: str) -> None:
        """Open a page of the part for model training; wait for its text."""
        self.browser.call("Page.navigate", url="about:blank")
        joint = "&" if "?" in route else "?"
        url = f"{self.uri}/#/{route}{joint}workflowType=machine_learning"
        self.browser.call("Page.navigate", url=url)
        self.browser.wait(f"document.body?.innerText.includes({json.dumps(text)}) ?? false")
        time.sleep(DRAWN)
        self.browser.run("document.querySelector('[aria-label=Close]')?.click()")  # the assistant

    def unfold(self, rows: int) -> None:
        """Show the seeds of the first rows of the table."""
        for row in reversed(range(rows)):  # those above keep their place
            self.browser.run(f"document.querySelectorAll({json.dumps(PLUS)})[{row}].click()")
            time.sleep(1.0)

    def save(self, name: str) -> None:
        """Write docs/images/mlflow-NAME.png."""
        time.sleep(DRAWN)
        self.browser.screenshot(IMAGES / f"mlflow-{name}.png")


def draw(page: Page, experiments: dict[str, str], run: str) -> None:
    """Walk through the pages as docs/tracking.md does.

    experiments: ids by the kind of stage; run: the evaluation that is shown alone.
    """
    evaluations, trainings = (f"experiments/{experiments[k]}" for k in ("evaluate", "finetune"))
    page.open(f"{evaluations}/runs?viewStateShareKey=t2v_R1", "matching runs")
    page.save("best")
    page.open(f"{trainings}/runs", "matching runs")
    page.unfold(5)
    page.save("runs")
    page.open(f"{evaluations}/runs/{run}", "Metrics")
    page.save("run")


def main() -> None:
    """Show the demo's store with a server of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=REPO / "build" / "demo", help="its outputs")
    store = parser.parse_args().demo.resolve() / "mlflow" / "mlflow.db"
    if not store.is_file():
        sys.exit(f"{store}: missing. Fix: run `make demo`")
    if CHROMIUM is None:
        sys.exit("chromium: not installed. Fix: install Debian's package `chromium`")
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), f"sqlite:///{store}").start()
        try:
            client = server.client()
            kinds = {
                one.name.split("/")[-1]: one.experiment_id for one in client.search_experiments()
            }
            (best, *_) = client.search_runs(
                [kinds["evaluate"]],
                "tags.run_key != ''",
                order_by=["metrics.`all/t2v_R1` DESC"],
                max_results=1,
            )
            with Browser(Path(folder, "profile")) as browser:
                browser.size(1440, 860)
                draw(Page(browser, server.uri), kinds, best.info.run_id)
        finally:
            server.kill()


if __name__ == "__main__":
    main()
