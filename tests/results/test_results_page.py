import json
import re
import shutil
from html.parser import HTMLParser

import pandas as pd
import pytest
from results_tree import PAPER, make_tree, rewrite

from clip4vla.common.errors import UserError
from clip4vla.common.files import write_json
from clip4vla.media.coverage_file import read_coverage
from clip4vla.results.behind import Planned
from clip4vla.results.figures_data import coverage, read_curve
from clip4vla.results.page import About, build_page
from clip4vla.results.tables import build_table
from clip4vla.tracking.attempts import append_attempt

COVERAGE = "split,expected,planned,fetched,with_video,with_sound,silent\ntest,20,18,15,14,11,3\n"


TRAINED = "0123456789ab"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    lines = [{"step": s, "epoch": 1, "train/loss": 3 / s, "train/lr": 0.1} for s in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "coverage.csv").write_text(COVERAGE)
    return folder


@pytest.fixture(scope="module")
def results(files, tmp_path_factory):
    """A folder `results` with a table, its page, runs and examples, as the rules make them."""
    root = make_tree(tmp_path_factory.mktemp("whole") / "results")
    rewrite(root / "tables/table1/rows.json", lambda value: value.update(caption="See `a_b`."))
    folder = root / "runs" / TRAINED
    folder.mkdir()
    (folder / "metrics.jsonl").write_bytes((files / "metrics.jsonl").read_bytes())
    write_json(folder / "cost.json", {"hours": 1, "hardware": {"A100": 2.0}, "attempts": 1})
    write_json(folder / "train.json", {"batch_size": 8, "trainable_parameters": 9})
    (root / "runs/aaaaaaaaaaa0/examples.html").write_text("<p>")
    state = root.parent / "runs" / TRAINED
    append_attempt(state, {"started_ms": 1796042815175, "seconds": 90.0, "git_sha": "5db967e949fe"})
    build_table(root / "tables/table1/rows.json", root / "runs", PAPER, root / "tables/table1")
    build(root, files, root)
    return root


def build(tree, files, out):
    build_page(
        [tree / "tables/table1/rows.json"],
        tree / "runs",
        PAPER,
        out,
        planned={
            "aaaaaaaaaaa0": Planned("table1/clip4vla/s0", "evaluate", (TRAINED,)),
            TRAINED: Planned("table1/clip4vla/s0", "finetune"),
            "0" * 12: Planned("not run yet", "pretrain"),
        },
        coverage_files={
            "msrvtt-v1-0a1b2c": files / "coverage.csv",
            "vatex-v1-0a1b2c": files / "absent.csv",
        },
        states=[tree.parent / "runs" / TRAINED],
    )


class Elements(HTMLParser):
    """The elements of a page, as (tag, attributes), and the texts in them."""

    def __init__(self, text):
        super().__init__()
        self.found, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def test_the_page_is_the_same_twice_and_names_no_place_of_this_machine(results, files):
    before = {p: p.read_bytes() for p in results.rglob("*") if p.is_file()}
    build(results, files, results)
    assert before == {p: p.read_bytes() for p in results.rglob("*") if p.is_file()}
    names = {
        str(path.relative_to(results / "figures")) for path in before if "figures" in str(path)
    }
    assert names == {
        f"{name}.{kind}"
        for name in ("difference", "curves-finetune", "coverage", "cost")
        for kind in ("svg", "png")
    }
    page = (results / "index.html").read_text()
    assert str(results) not in page and "http" not in page


def test_the_top_says_what_was_run_and_how_the_main_numbers_compare(results):
    page = (results / "index.html").read_text().split("<script>")[0]
    text = " ".join(Elements(page).texts)
    for fact in (
        "2026-11-30",
        "5db967e949",
        "msrvtt-v1-0a1b2c",
        "A100",
        "2.0 h on A100, 1 of 2 trainings",
        "45.5 ± 0.7",
        "46.2",
        "within",
    ):
        assert fact in text
    assert "`" not in text and "10 of 22 numbers" in text


def test_links_lead_somewhere_also_from_a_zip_that_was_opened_elsewhere(results, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "results"), "zip", results.parent, "results")
    shutil.unpack_archive(archive, tmp_path / "elsewhere")
    page = tmp_path / "elsewhere/results/index.html"
    elements = Elements(page.read_text())
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    links = [attributes["href"] for attributes in elements.all("a")]
    assert len(ids) == len(set(ids))
    for link in links:
        assert link[1:] in ids if link.startswith("#") else (page.parent / link).is_file(), link
    for name in ("table.csv", "table.tex", "table.md", "tidy.csv"):
        assert f"tables/table1/{name}" in links
    for name in ("examples.html", "metrics.json"):
        assert f"runs/aaaaaaaaaaa0/{name}" in links
    assert f"runs/{TRAINED}/train.json" in links


def test_every_number_of_ours_leads_to_its_runs(results):
    page = (results / "index.html").read_text()
    cells = re.findall(
        r'<td data-label="(?:MSR-VTT|VATEX) [^"]*"( data-value="[^"]*")?[^>]*>(.)', page
    )
    rows = page.split('<tr class="ours">')[1:]
    measured = [c for row in rows for c in re.findall(r"<td[^>]*data-value[^>]*>(<\w)", row)]
    assert cells and len(measured) == 10 and set(measured) == {"<a"}
    group = re.search(r'<a href="#([^"]+)">45.5 ± 0.7</a>', page)[1]
    runs = page.split(f'id="{group}"')[1].split("</ul>")[0]
    assert re.findall(r"evaluate <code>(\w+)", runs) == ["aaaaaaaaaaa0", "aaaaaaaaaaa1"]
    assert f"finetune <code>{TRAINED}" in runs


def test_tiny_models_are_called_so(tree, tmp_path):
    sheets = [tree / "tables/table1/rows.json"]
    for name, about in (("real", About()), ("tiny", About(tiny=True))):
        build_page(sheets, tree / "runs", PAPER, tmp_path / name, about=about)
        said = "These models are tiny" in (tmp_path / name / "index.html").read_text()
        assert said == (name == "tiny")


def test_curve_frame(files):
    frame = read_curve(files / "metrics.jsonl")
    assert frame[frame.name == "train/loss"].value.tolist() == [3.0, 1.5, 1.0]
    assert frame.step.tolist() == [1, 1, 2, 2, 3, 3]


def test_curve_with_times_or_with_metrics_of_their_own(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text(
        '{"step": 1, "epoch": 1, "timestamp_ms": 9, "loss": 2}\n'
        '{"step": 2, "epoch": 1, "metrics": {"loss": 1}}\n'
    )
    assert read_curve(path).to_dict("list") == {
        "step": [1, 2],
        "name": ["loss", "loss"],
        "value": [2.0, 1.0],
    }


def test_a_damaged_curve_is_reported_with_its_line(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"step": 1}\n{"loss": 2}\n')
    with pytest.raises(UserError, match=r"m\.jsonl:2: "):
        read_curve(tmp_path / "m.jsonl")


def test_coverage_without_a_column_is_reported(tmp_path):
    (tmp_path / "coverage.csv").write_text("split,expected\ntest,1\n")
    with pytest.raises(UserError, match="no column planned"):
        read_coverage(tmp_path / "coverage.csv")


def test_parts_of_a_coverage_bar_add_up(files):
    figure = coverage({"v": read_coverage(files / "coverage.csv")})
    widths = [patch.get_width() for patch in figure.axes[0].patches]
    assert widths == pytest.approx([55.0, 15.0, 5.0, 15.0, 10.0])


def test_coverage_without_an_expected_count_uses_the_plan(files):
    frame = pd.read_csv(files / "coverage.csv").assign(expected=float("nan"))
    figure = coverage({"v": frame})
    assert sum(patch.get_width() for patch in figure.axes[0].patches) == pytest.approx(100)
    assert "N = 18" in [text.get_text() for text in figure.axes[0].texts]
