import json

import pandas as pd
import pytest
from results_tree import PAPER

from clip4vla.common.errors import UserError
from clip4vla.media.coverage_file import read_coverage
from clip4vla.results.figures_data import coverage, read_curve
from clip4vla.results.page import build_page

COVERAGE = "split,expected,planned,fetched,with_video,with_sound,silent\ntest,20,18,15,14,11,3\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    lines = [{"step": s, "epoch": 1, "train/loss": 3 / s, "train/lr": 0.1} for s in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "coverage.csv").write_text(COVERAGE)
    return folder


def build(tree, files, out):
    build_page(
        [tree / "tables/table1/rows.json"],
        tree / "runs",
        PAPER,
        out,
        {
            "pretrain": {"not run yet": files / "absent.jsonl"},
            "finetune": {"table1/clip4vla/s0": files / "metrics.jsonl"},
        },
        {"msrvtt-v1-0a1b2c": files / "coverage.csv", "vatex-v1-0a1b2c": files / "absent.csv"},
    )
    return {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_page_holds_everything_and_is_the_same_twice(tree, files, tmp_path):
    first = build(tree, files, tmp_path / "a")
    assert first == build(tree, files, tmp_path / "b")
    names = {str(path) for path in first}
    figures = ("difference", "curves-finetune", "coverage", "cost")
    assert names == {"index.html", "tidy.csv", "numbers.tex"} | {
        f"figures/{name}.{kind}" for name in figures for kind in ("svg", "png")
    }
    page = (tmp_path / "a" / "index.html").read_text()
    assert page.count('src="data:image/svg+xml;base64,') == page.count("<img") == 5
    assert 'href="#coverage-of-the-data"' in page and 'id="coverage-of-the-data"' in page
    assert str(tmp_path) not in page


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
