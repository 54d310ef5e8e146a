from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from results_tree import PAPER, made_with, make_tree, metrics, rewrite

from clip4vla.common.errors import UserError
from clip4vla.common.files import read_json, write_json
from clip4vla.results.compare import as_frame, compare
from clip4vla.results.figures_compare import bars, differences
from clip4vla.results.footers import footers
from clip4vla.results.layout import build_grid
from clip4vla.results.metrics_file import read_metrics
from clip4vla.results.paper import Published, read_paper
from clip4vla.results.sheet import Sheet, read_sheet
from clip4vla.results.tables import build_table
from clip4vla.results.text import number, signed
from clip4vla.results.tidy import build_tidy

GOLDEN = Path(__file__).parent / "golden"
FILES = ("tidy.csv", "table.csv", "table.md", "table.html", "table.tex", "bars.svg", "bars.png")


def build(root, out):
    build_table(root / "tables/table1/rows.json", root / "runs", PAPER, out)
    return out


@pytest.fixture(scope="module")
def table(tree, tmp_path_factory):
    return build(tree, tmp_path_factory.mktemp("table"))


@pytest.mark.parametrize("name", ["table.md", "table.tex", "table.csv"])
def test_golden(table, name):
    assert (table / name).read_text() == (GOLDEN / name).read_text()


def test_equal_inputs_give_equal_bytes(tmp_path, table):
    again = build(make_tree(tmp_path / "elsewhere"), tmp_path / "out")
    for name in FILES:
        assert (again / name).read_bytes() == (table / name).read_bytes(), name
    assert sorted(path.name for path in again.iterdir()) == sorted(FILES)


def entries_of(table, row, metric="t2v_R1", dataset="msrvtt"):
    frame = pd.read_csv(table / "table.csv", keep_default_na=False)
    found = frame[(frame.row == row) & (frame.metric == metric) & (frame.dataset == dataset)]
    return found.to_dict("records")


@pytest.mark.parametrize(
    ("row", "dataset", "metric", "verdict"),
    [
        ("clip4vla", "msrvtt", "t2v_R1", "within"),
        ("clip4vla", "msrvtt", "t2v_MedR", "below"),  # 4 against 2: a worse rank
        ("clip4vla", "vatex", "t2v_R1", "not run (no data)"),
        ("clip4clip", "msrvtt", "t2v_R1", "partial"),  # one of two seeds
        ("clip", "msrvtt", "t2v_R1", "partial"),  # 15 of 20 clips
        ("mmt", "msrvtt", "t2v_R1", "not run"),
        ("ours_only", "msrvtt", "t2v_R1", "—"),
        ("w2vv_pp", "vatex", "t2v_R1", "paper only"),
    ],
)
def test_verdicts(table, row, dataset, metric, verdict):
    assert entries_of(table, row, metric, dataset)[0]["verdict"] == verdict


def test_mean_spread_and_difference(table):
    all_clips, with_sound = entries_of(table, "clip4vla")
    assert float(all_clips["ours"]) == 45.5
    assert float(all_clips["sd"]) == pytest.approx(0.7071, abs=1e-4)
    assert float(all_clips["difference"]) == pytest.approx(-0.7)
    assert (all_clips["queries"], with_sound["queries"]) == ("20", "17")
    # The second gallery is shown, never compared with the paper's only one.
    assert (with_sound["verdict"], with_sound["difference"]) == ("other gallery", "")


def test_no_cell_is_empty(tree):
    sheet = read_sheet(tree / "tables/table1/rows.json")
    paper = read_paper(PAPER)
    grid = build_grid(sheet, compare(sheet, build_tidy([sheet], tree / "runs"), paper), paper)
    assert all(cell.strip() for line in grid.lines for cell in line.cells)
    assert {len(line.cells) for line in grid.lines} == {len(grid.headings)}
    assert sum(size for _, size in grid.groups) == len(grid.headings)


def test_html_is_valid_and_self_contained(table):
    text = (table / "table.html").read_text()
    assert "http" not in text and "src=" not in text
    open_tags = []

    class Balance(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag != "meta":
                open_tags.append(tag)

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Balance().feed(text)
    assert open_tags == []
    assert "Text to video &amp; back." in text


def test_latex_escapes_and_rows_have_all_columns(table):
    text = (table / "table.tex").read_text()
    body = text.split(r"\midrule", 1)[1].split(r"\bottomrule")[0]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert {line.replace(r"\&", "").count("&") for line in rows} == {6}
    assert r"Text to video \& back." in text
    assert r"45.5 $\pm$ 0.7" in text and "−" not in text.split("% ")[0]


def a_sheet(tmp_path, scores, **given):
    """The entry of ours of `a_table`."""
    _, found = a_table(tmp_path, scores, **given)
    return [entry for entry in found if entry.kind == "ours"][0]


def a_table(tmp_path, scores, *, metrics_map=None, comparable=True, expected="msrvtt"):
    """A sheet with one row, R@1 only, and its entries; `scores`: (seed, run key, value)."""
    for _, key, value in scores:
        if value is not None:
            found = metrics(key, value, metrics_of={"t2v_R1": value, "t2a_R1": value / 2})
            write_json(tmp_path / "runs" / key / "metrics.json", found)
    cells = [{"dataset": expected, "seed": seed, "run_key": key} for seed, key, _ in scores]
    column = {"dataset": expected, "metric": "t2v_R1", "label": "R@1", "paper_dataset": "msrvtt"}
    row = {"row": "clip4vla", "label": "x", "cells": cells, "metrics": metrics_map or {}}
    sheet = Sheet.model_validate(
        {
            "table": "t",
            "title": "T",
            "paper_table": "table1",
            "comparable": comparable,
            "note": "" if comparable else "tiny random towers",
            "columns": [column],
            "rows": [row],
        }
    )
    return sheet, compare(sheet, build_tidy([sheet], tmp_path / "runs"), read_paper(PAPER))


def test_cells_of_one_seed_are_folds(tmp_path):
    entry = a_sheet(tmp_path, [(0, "f1", 40.0), (0, "f2", 50.0)])
    assert (entry.ours, entry.sd, entry.seeds, entry.queries) == (45.0, None, 1, "40")


def test_a_missing_fold_leaves_its_seed_out(tmp_path):
    entry = a_sheet(tmp_path, [(0, "f1", 40.0), (0, "f2", None)])
    assert (entry.ours, entry.verdict, entry.reason) == (None, "not run", "waiting for f2")


def test_one_evaluation_behind_every_seed_is_one_run_without_a_spread(tmp_path):
    entry = a_sheet(tmp_path, [(0, "same", 46.0), (1, "same", 46.0)])
    assert (entry.ours, entry.sd, entry.seeds, entry.seeded) == (46.0, None, 1, False)


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        ([46.2 + 1.0], "within"),
        ([46.2 + 1.1], "above"),
        ([46.2 - 1.1], "below"),
        ([40.0, 46.0], "within"),  # sd 4.2: the threshold is 2 sd
        ([41.2, 45.2], "within"),  # 3.0 off, sd 2.8: between 1 and 2 sd
        ([47.2, 51.2], "within"),
        ([39.2, 41.2], "below"),  # 6.0 off, sd 1.4
        ([51.2, 53.2], "above"),
    ],
)
def test_threshold(tmp_path, scores, verdict):
    runs = [(seed, f"r{seed}", value) for seed, value in enumerate(scores)]
    assert a_sheet(tmp_path, runs).verdict == verdict


def test_a_row_may_read_another_metric(tmp_path):
    entry = a_sheet(tmp_path, [(0, "k", 40.0)], metrics_map={"t2v_R1": "t2a_R1"})
    assert (entry.metric, entry.ours, entry.paper) == ("t2a_R1", 20.0, None)


def test_tiny_towers_get_no_verdict(tmp_path):
    entry = a_sheet(tmp_path, [(0, "k", 5.0)], comparable=False, expected="demo")
    assert entry.verdict == "not comparable"
    assert entry.difference == pytest.approx(5.0 - 46.2)


@pytest.mark.parametrize("comparable", [True, False])
def test_numbers_on_other_data_are_not_averaged_and_marked_in_every_figure(tmp_path, comparable):
    sheet, entries = a_table(tmp_path, [(0, "k", 5.0)], comparable=comparable)
    lines = footers(sheet, entries, read_paper(PAPER), {})
    assert any("mean difference" in line for line in lines) is comparable
    (legend,) = bars(sheet, entries).legends
    said = [legend.get_texts()[0].get_text(), differences(entries).get_suptitle()]
    assert all(("not comparable" not in text) is comparable for text in said)


def test_audio_only_baselines_stand_in_the_shared_column():
    sheet = Sheet.model_validate(
        {
            "table": "table2",
            "title": "T",
            "columns": [{"dataset": "audiocaps", "metric": "t2v_R1", "label": "R@1"}],
            "rows": [{"row": "clip4vla_a", "label": "A", "metrics": {"t2v_R1": "t2a_R1"}}],
        }
    )
    found = {e.row: e for e in compare(sheet, build_tidy([sheet], "nowhere"), read_paper(PAPER))}
    assert (found["vggish_a"].metric, found["vggish_a"].paper) == ("t2a_R1", 18.5)
    assert (found["ce_av"].metric, found["ce_av"].paper) == ("t2v_R1", 28.0)
    assert (found["clip4vla_a"].paper, found["clip4vla_a"].verdict) == (28.4, "not run")


def test_a_baseline_has_no_number_in_a_column_of_the_other_direction():
    columns = [
        {"dataset": "audiocaps", "metric": f"{way}_R1", "label": way} for way in ("t2v", "v2t")
    ]
    rows = [{"row": "mine", "label": "mine"}]
    sheet = Sheet.model_validate(
        {"table": "table2", "title": "T", "columns": columns, "rows": rows}
    )
    entries = compare(sheet, build_tidy([sheet], "nowhere"), read_paper(PAPER))
    theirs = {(e.row, e.column): e.paper for e in entries}
    assert (theirs["vggish_a", "t2v_R1"], theirs["vggish_a", "v2t_R1"]) == (18.5, None)
    assert (theirs["ce_av", "t2v_R1"], theirs["ce_av", "v2t_R1"]) == (28.0, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("title"), "title"),
        (lambda v: v["rows"][0]["cells"][0].update(dataset="x"), "no column has the dataset 'x'"),
        (lambda v: v["rows"][0]["cells"][0].update(no_data="why"), "not both"),
        (lambda v: v["rows"].append(v["rows"][0]), "is there twice"),
        (lambda v: v["rows"][0].update(kind="paper"), "a paper row has no cells"),
        (lambda v: v.update(comparable=False), "Fix: give the reason in `note`"),
    ],
)
def test_invalid_sheets_are_reported(tmp_path, change, message):
    path = make_tree(tmp_path) / "tables/table1/rows.json"
    rewrite(path, change)
    with pytest.raises(UserError) as caught:
        read_sheet(path)
    assert "rows.json" in str(caught.value) and message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("coverage"), "not the metrics of an evaluation"),
        (lambda v: v["coverage"].pop("expected"), "coverage.expected: Field required"),
        (lambda v: v["galleries"]["all"].pop("ids_sha256"), "galleries.all.ids_sha256"),
        (lambda v: v["galleries"]["all"]["metrics"].pop("t2v_R1"), "no metric 't2v_R1'"),
        (lambda v: v["galleries"].pop("with_sound"), "no gallery 'with_sound'"),
    ],
)
def test_invalid_metrics_are_reported(tmp_path, change, message):
    root = make_tree(tmp_path)
    rewrite(root / "runs/aaaaaaaaaaa0/metrics.json", change)
    with pytest.raises(UserError) as caught:
        build(root, tmp_path / "out")
    assert "aaaaaaaaaaa0/metrics.json" in str(caught.value) and message in str(caught.value)


def test_numbers_as_text():
    assert [signed(v) for v in (0.04, -0.04, 1.25, -3.0)] == ["0.0", "0.0", "+1.2", "−3.0"]
    assert [number(48.0, "v100_days"), number(46.2, "t2v_R1")] == ["48", "46.2"]


def test_clips_left_out_of_pretraining_are_in_the_footer(tmp_path):
    root = make_tree(tmp_path)
    rewrite(root / "runs/aaaaaaaaaaa0/metrics.json", lambda v: v.update(leaks_dropped=1234))
    text = (build(root, tmp_path / "out") / "table.md").read_text()
    (line,) = [line for line in text.splitlines() if "videos are held out" in line]
    assert "Clips left out of pre-training" in line and ": 1234 (" in line


def test_scored_clips_that_pretraining_has_seen_are_in_the_footer(tmp_path, table):
    """Of one run they were counted, of another pre-trained one they are unknown."""
    assert "that pre-training has read" not in (table / "table.md").read_text()
    assert "leaks_kept" not in (table / "table.csv").read_text()
    root = make_tree(tmp_path)
    before = made_with(pretrained=True)
    for run, kept in (("aaaaaaaaaaa0", {"leaks_kept": 1}), ("cccccccccccc", {})):
        change = {"made_with": before} | kept
        rewrite(root / f"runs/{run}/metrics.json", lambda v, change=change: v.update(change))
    out = build(root, tmp_path / "out")
    (line,) = [s for s in (out / "table.md").read_text().splitlines() if "has read" in s]
    scored = read_json(root / "runs/aaaaaaaaaaa0/metrics.json")["coverage"]["scored"]
    assert "Scored clips of videos that pre-training has read: MSR-VTT" in line
    assert f"MSR-VTT 1 of {scored}; unknown (CLIP4VLA)" in line  # the other seed has no count
    assert "MSR-VTT unknown (CLIP" in line
    frame = pd.read_csv(out / "table.csv")
    assert f"1 of {scored}; unknown" in set(frame.leaks_kept)


def test_the_classes_that_count_are_in_the_footer(tmp_path, table):
    assert "Classes of mAP" not in (table / "table.md").read_text()
    assert "classes" not in pd.read_csv(table / "table.csv").columns
    root = make_tree(tmp_path)
    classes = {"counted": 520, "without_positives": 7, "trained": 527, "untrained": 0}

    def state(values):
        for gallery in values["galleries"].values():
            gallery["classes"] = classes

    rewrite(root / "runs/aaaaaaaaaaa0/metrics.json", state)
    out = build(root, tmp_path / "out")
    (line,) = [s for s in (out / "table.md").read_text().splitlines() if "Classes of mAP" in s]
    assert "MSR-VTT 520 count, 7 without positives left out (" in line
    assert "520 count, 7 without positives left out" in set(pd.read_csv(out / "table.csv").classes)
    for path in root.glob("runs/*/metrics.json"):
        rewrite(path, state)
    text = (build(root, tmp_path / "all") / "table.md").read_text()
    assert "MSR-VTT 520 count, 7 without positives left out." in text  # rows alike are not listed


def test_smaller_batches_than_requested_are_in_the_footer(tmp_path, table):
    assert "Batches smaller" not in (table / "table.md").read_text()
    root = make_tree(tmp_path)
    small = {"pretrain": {"asked": 256, "used": 24}, "finetune": {"asked": 128, "used": 60}}
    rewrite(root / "runs/aaaaaaaaaaa0/metrics.json", lambda v: v.update(small_batches=small))
    text = (build(root, tmp_path / "out") / "table.md").read_text()
    (line,) = [line for line in text.splitlines() if "Batches smaller than asked for" in line]
    assert "finetune 60 in place of 128, pretrain 24 in place of 256 (" in line
    assert "none (" in line


def test_candidates_that_were_scored_again_are_in_the_footer(tmp_path, table):
    for name in ("table.md", "table.csv"):
        assert "second score" not in (text := (table / name).read_text()) and "rescored" not in text
    root = make_tree(tmp_path)
    rewrite(root / "runs/aaaaaaaaaaa0/metrics.json", lambda v: v.update(rescored=128))
    out = build(root, tmp_path / "out")
    (line,) = [s for s in (out / "table.md").read_text().splitlines() if "second score" in s]
    assert line.startswith("- Candidates of each query that a second score of its pairs ranks: ")
    assert "the first 128 (" in line and "none (" in line
    rows = pd.read_csv(out / "table.csv").dropna(subset="rescored")
    assert len(rows) and set(rows.rescored) == {128}
    tidy = pd.read_csv(out / "tidy.csv")
    assert set(tidy.n_rescored.dropna()) == {128}


FIELDS = ("run_key", "task", "dataset", "data_version", "manifest_sha256", "split", "protocol")
FIELDS += ("gallery", "missing_audio", "selection", "tie_rule", "interval_rule", "coverage")
OF_GALLERIES = ("protocol", "n_queries", "n_gallery", "ids_sha256", "metrics")


def test_metrics_fields_are_required_and_documented(tmp_path):
    """Building a table requires every field that its numbers depend on."""
    path, whole = tmp_path / "metrics.json", metrics("k", 40.0)
    documented = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    for place, names in ((whole, FIELDS), (whole["galleries"]["all"], OF_GALLERIES)):
        for name in (*names, *(whole["coverage"] if place is whole else ())):
            part = place if name in place else whole["coverage"]
            value = part.pop(name)
            write_json(path, whole)
            with pytest.raises(UserError, match=name):
                read_metrics(path)
            part[name] = value
            assert f"`{name}`" in documented
    write_json(path, whole)
    assert read_metrics(path).galleries["all"].metrics["t2v_R1"] == 40.0


@pytest.mark.parametrize("field", ["low", "high", "pessimistic", "optimistic"])
def test_intervals_and_ties_are_in_the_long_table(tmp_path, field):
    root = make_tree(tmp_path)
    bounds = {"t2v_R1": [44.0, 47.0]}
    rewrite(
        root / "runs/aaaaaaaaaaa0/metrics.json",
        lambda v: v["galleries"]["all"].update(bounds=bounds, extras={"dual_softmax": {"x": 1}}),
    )
    out = build(root, tmp_path / "out")
    frame = pd.read_csv(out / "tidy.csv")
    row = frame[(frame.run_key == "aaaaaaaaaaa0") & (frame.gallery == "all")].set_index("metric")
    ends = {"low": 43.0, "high": 47.0, "pessimistic": 44.0, "optimistic": 47.0}
    assert row[field]["t2v_R1"] == ends[field]
    assert row.value["dual_softmax/x"] == 1.0
    # Seed 1 has no ties: the mean over seeds of the ends.
    assert (
        "All ties lost to all won: CLIP4VLA on MSR-VTT R@1 45.0 to 46.5."
        in (out / "table.md").read_text()
    )


def one_run(tmp_path, change, columns=None):
    """The entry of a single run of R@1 40 after a change of its metrics."""
    value = metrics("k", 40.0)
    change(value)
    write_json(tmp_path / "runs" / "k" / "metrics.json", value)
    column = {"dataset": "msrvtt", "metric": "t2v_R1", "label": "R@1"} | (columns or {})
    cells = [{"dataset": "msrvtt", "seed": None, "run_key": "k"}]
    row = {"row": "clip4vla", "label": "x", "cells": cells}
    fixed = {"table": "t", "title": "T", "paper_table": "table1"}
    sheet = Sheet.model_validate(fixed | {"columns": [column], "rows": [row]})
    tidy, paper = build_tidy([sheet], tmp_path / "runs"), read_paper(PAPER)
    entries = compare(sheet, tidy, paper)
    (entry,) = [entry for entry in entries if entry.kind == "ours"]
    return entry, build_grid(sheet, entries, paper)


def queries(value, number):
    value["galleries"]["all"]["n_queries"] = number


@pytest.mark.parametrize(
    ("change", "verdict", "reason"),
    [
        (lambda v: None, "below", ""),
        (lambda v: v["coverage"].update(usable=19), "partial", "19 of 20 official clips"),
        (lambda v: v["coverage"].update(usable=21), "partial", "21 of 20 official clips"),
        (
            lambda v: v["coverage"].update(expected=None, usable=19),
            "not comparable",
            "no official number of clips is declared for the split",
        ),
        (
            lambda v: v["coverage"].update(captions_per_clip=2),
            "partial",
            "20 captions instead of 2",
        ),
        (lambda v: (v["coverage"].update(captions_per_clip=2), queries(v, 40)), "below", ""),
        (
            lambda v: v["galleries"]["all"].update(protocol="val"),
            "other protocol",
            "ours is val, the paper's 1k-A",
        ),
        (lambda v: v["galleries"]["all"].update(protocol="1k-A-sound"), "below", ""),
    ],
)
def test_less_or_other_than_declared_is_never_judged(tmp_path, change, verdict, reason):
    entry, grid = one_run(tmp_path, change)
    assert entry.verdict == verdict and reason in entry.reason
    assert (entry.low, entry.high) == (38.0, 42.0)
    if reason:
        assert any(reason in line for line in grid.footers)


def test_a_published_number_that_is_not_available_is_marked_and_compared_with_nothing(tmp_path):
    """In a row of the paper's and in one of ours, whose number gets no verdict."""
    write_json(tmp_path / "runs" / "k" / "metrics.json", metrics("k", 40.0))
    numbers = [
        Published("theirs", row, row, "msrvtt", "1k-A", "t2v_R1", value, "A paper", note, line)
        for row, value, note, line in [
            ("a", None, "not found", 2),
            ("b", 41.0, "", 3),
            ("mine", None, "not found", 4),
        ]
    ]
    column = {"dataset": "msrvtt", "metric": "t2v_R1", "label": "R@1"}
    cells = [{"dataset": "msrvtt", "seed": None, "run_key": "k"}]
    sheet = Sheet.model_validate(
        {
            "table": "t",
            "title": "T",
            "paper_table": ["table1", "theirs"],
            "columns": [column],
            "rows": [{"row": "mine", "label": "mine", "cells": cells}],
        }
    )
    entries = compare(sheet, build_tidy([sheet], tmp_path / "runs"), numbers)
    grid = build_grid(sheet, entries, numbers)
    assert [(line.row, line.source, line.cells[0]) for line in grid.lines] == [
        ("a", "paper", "not available to us"),
        ("b", "paper", "41.0"),
        ("mine", "paper", "not available to us"),
        ("mine", "ours", "40.0"),
    ]
    (mine,) = (entry for entry in entries if entry.row == "mine")
    assert (mine.paper, mine.difference, mine.verdict) == (None, None, "—")
    assert mine.reason == "the paper's number is not available to us"
    assert any("A paper (a; mine on MSR-VTT): not found." in line for line in grid.footers)
    assert as_frame(entries).unavailable.tolist() == [True, False, True]
    (axis,) = bars(sheet, entries).axes
    assert "not available to us" in [text.get_text() for text in axis.texts]


def test_seeds_on_different_clips_are_not_averaged(tmp_path):
    root = make_tree(tmp_path)
    rewrite(
        root / "runs/aaaaaaaaaaa1/metrics.json",
        lambda v: v["galleries"]["all"].update(ids_sha256="f" * 64),
    )
    all_clips, with_sound = entries_of(build(root, tmp_path / "out"), "clip4vla")
    assert (all_clips["verdict"], all_clips["ours"]) == ("not run", "")
    assert "scored on different clips: aaaaaaaaaaa0, aaaaaaaaaaa1" in all_clips["reason"]
    assert float(with_sound["ours"]) == 45.0  # of one seed


def test_an_extra_is_a_column_of_its_own_and_never_compared(tmp_path):
    def soft(value):
        value["galleries"]["all"]["extras"] = {"dual_softmax": {"t2v_R1": 46.2}}

    entry, grid = one_run(tmp_path, soft, {"metric": "dual_softmax/t2v_R1", "label": "R@1 DSL"})
    assert (entry.ours, entry.paper, entry.verdict) == (46.2, None, "—")
    assert any(line.startswith("dual_softmax: similarity times") for line in grid.footers)


def test_numbers_that_are_not_to_be_mixed_are_labelled_under_the_table(tmp_path, table):
    quiet = (table / "table.md").read_text()
    assert "half-weight" not in quiet and "test split itself" not in quiet
    assert "read the test captions" not in quiet
    root = make_tree(tmp_path)
    paper = {"selection": "best_test_as_paper"}
    rewrite(root / "runs/bbbbbbbbbbb0/metrics.json", lambda v: v.update(paper))
    half = {"half_weights": ["pretrain", "finetune"]}
    rewrite(root / "runs/cccccccccccc/metrics.json", lambda v: v.update(half))
    links = {"missing_audio": "released_links"}
    rewrite(root / "runs/cccccccccccc/metrics.json", lambda v: v.update(links))
    text = (build(root, tmp_path / "out") / "table.md").read_text()
    assert "released_links (reads the test captions) (CLIP)" in text
    assert "they read the test captions, by which they are scored" in text
    assert "best_test_as_paper (CLIP4Clip)" in text
    assert "best_val in the half-weight study (pretrain, finetune) (CLIP)" in text
    assert "best on the reported test split itself" in text
    assert "Numbers of the half-weight study come from towers trained with float16 weights" in text
