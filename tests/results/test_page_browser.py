"""The results page in a browser, wide and narrow, light and dark: nothing is cut, rows sort."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
from browser import Browser
from results_tree import PAPER, make_tree, rewrite
from snakemake.common import get_report_id
from snakemake.report.html_reporter.common import get_result_uri

from clip4vla.results.page import build_page

LONG = "a label of a row that has no end, " * 4
CUT = """[...document.querySelectorAll('body *')].filter(e => {
  const box = e.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 1 || box.left < -1) && !e.matches('.skip');
}).map(e => e.outerHTML.slice(0, 90))"""
SCROLLS = """[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1)
  .map(e => e.ariaLabel)"""
TABLE = "document.querySelectorAll('table.sorts')[1]"
ROWS = f"[...{TABLE}.tBodies[0].rows].map(e => e.cells[0].innerText)"
HEAD = f"[...{TABLE}.tHead.rows[1].cells].find(e => e.innerText.startsWith('R@1'))"
VALUES = f"[...{TABLE}.tBodies[0].rows].map(e => e.cells[1].dataset.value)"


class Result(NamedTuple):
    """What Snakemake knows of a file in its report."""

    id: str
    filename: str


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = make_tree(tmp_path_factory.mktemp("page") / "results")

    def hostile(value):
        value.update(title=LONG, caption="x" * 300, note=LONG * 3)
        for row in value["rows"][:2]:
            row["label"] = LONG + row["label"]

    rewrite(root / "tables/table1/rows.json", hostile)
    build_page([root / "tables/table1/rows.json"], root / "runs", PAPER, root)
    return root / "index.html"


@pytest.fixture(scope="module")
def browser(page, tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        browser.call("Page.navigate", url=page.as_uri())
        browser.wait("document.readyState === 'complete'")
        yield browser
        assert browser.problems == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_cut(browser, width, dark):
    browser.size(width, 900, dark)
    browser.run("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(CUT) == browser.run(SCROLLS) == []
    ink, paper = browser.run(
        "(s => [s.color, s.backgroundColor].map(c => c.match(/\\d+/g).reduce((a, b) => a + +b, 0)))"
        "(getComputedStyle(document.body))"
    )
    assert (ink > paper) == dark


def test_nothing_is_cut_on_paper(browser):
    browser.size(720, 1000)
    browser.call("Emulation.setEmulatedMedia", media="print")
    try:
        assert browser.run(SCROLLS) == []
        assert browser.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")


def test_a_click_sorts_and_another_returns_to_the_order_of_the_table(browser):
    browser.size(1280, 900)
    listed = browser.run(ROWS)
    orders = []
    for _ in range(3):
        browser.run(f"{HEAD}.querySelector('button').click()")
        orders.append((browser.run(f"{HEAD}.ariaSort"), browser.run(ROWS)))
    assert [kind for kind, _ in orders] == ["descending", "ascending", "none"]
    assert orders[0][1] != listed == orders[2][1]
    browser.run(f"{HEAD}.querySelector('button').click()")
    numbers = [float(value) for value in browser.run(VALUES) if value is not None]
    assert numbers == sorted(numbers, reverse=True) and len(numbers) > 5


def test_a_number_opens_the_runs_behind_it_and_says_more_when_it_has_the_focus(browser):
    browser.size(1280, 900)
    browser.run("document.querySelectorAll('details').forEach(e => { e.open = false; })")
    browser.run("document.querySelector('tr.ours td a').click()")
    browser.wait("document.querySelector('.group:target')?.closest('details').open")
    browser.run("document.querySelector('tr.ours td a').focus()")
    assert "seed" in browser.text("#tip") and "clips: " in browser.text("#tip")


def test_a_copy_in_the_report_of_snakemake_has_no_dead_links(page, browser):
    """Which keeps it alone, in a folder that is named by a sha256."""
    links = "[...document.querySelectorAll('a[href]')].map(e => e.getAttribute('href'))"
    assert any(not address.startswith("#") for address in browser.run(links))
    copy = Path(page.parent, get_result_uri(Result(get_report_id(page), page.name), False))
    copy.parent.mkdir(parents=True)
    copy.write_bytes(page.read_bytes())
    browser.call("Page.navigate", url=copy.as_uri())
    browser.wait(
        f"document.readyState === 'complete' && location.pathname === {json.dumps(str(copy))}"
    )
    left = browser.run(links)
    assert left and all(address.startswith("#") for address in left)
    assert browser.run("document.querySelectorAll('a[title*=\"not part of this report\"]').length")
