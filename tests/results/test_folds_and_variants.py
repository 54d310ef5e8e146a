"""Cells that are the mean of folds, rows that show a variant, and the figure of a sweep."""

from statistics import stdev

import pytest
from results_tree import PAPER, metrics

from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of, write_json
from clip4vla.results.compare import compare
from clip4vla.results.figures import encoded
from clip4vla.results.figures_sweep import sweep
from clip4vla.results.layout import build_grid
from clip4vla.results.paper import read_paper
from clip4vla.results.render import to_markdown
from clip4vla.results.sheet import Sheet
from clip4vla.results.tidy import build_tidy

PROTOCOLS = {"esc50": "5-fold", "ucf101": "3-split"}


def shown(tmp_path, sheet):
    sheet = Sheet.model_validate(sheet)
    tidy = build_tidy([sheet], tmp_path / "runs")
    entries = compare(sheet, tidy, read_paper(PAPER))
    return sheet, entries, to_markdown(build_grid(sheet, entries, read_paper(PAPER)))


def fold(tmp_path, key, value, dataset="esc50"):
    found = metrics(key, 0.0, metrics_of={"accuracy": value}, dataset=dataset)
    of_fold = {"protocol": PROTOCOLS[dataset], "ids_sha256": sha256_of(key)}  # its own clips
    found["galleries"]["all"] |= of_fold
    write_json(tmp_path / "runs" / key / "metrics.json", found)
    return {"dataset": dataset, "seed": 0, "run_key": key}


def table6(cells):
    columns = [
        {"dataset": dataset, "metric": "accuracy", "label": "accuracy"}
        for dataset in ("esc50", "ucf101")
    ]
    row = {"row": "clip4vla", "label": "CLIP4VLA", "cells": cells}
    return {"table": "table6", "title": "T", "columns": columns, "rows": [row]}


def test_a_cell_is_the_mean_of_its_folds_with_their_spread(tmp_path):
    scores = [84.0, 88.0, 85.0, 90.0, 87.0]
    cells = [fold(tmp_path, f"{i}" * 12, value) for i, value in enumerate(scores)]
    cells += [fold(tmp_path, f"{c}" * 12, 91.0, "ucf101") for c in "ab"]
    cells.append({"dataset": "ucf101", "seed": 0, "run_key": "c" * 12})  # has not ended
    _, entries, text = shown(tmp_path, table6(cells))
    ours = {e.dataset: e for e in entries if e.row == "clip4vla" and e.dataset != "pretraining"}
    esc50, ucf101 = ours["esc50"], ours["ucf101"]
    assert (esc50.ours, esc50.folds) == (pytest.approx(86.8), 5)
    assert esc50.fold_sd == pytest.approx(stdev(scores)) and esc50.sd is None
    assert (esc50.verdict, esc50.difference) == ("within", pytest.approx(0.0))
    assert esc50.queries == "100"  # of all folds together
    assert (ucf101.ours, ucf101.verdict) == (None, "not run")
    assert "86.8 ± 2.4" in text and "1 seed × 5 folds" in text
    assert "Folds: each is a run of its own" in text


def test_the_spread_over_folds_does_not_widen_within(tmp_path):
    """Folds differ by their clips, which does not excuse a deviating mean."""
    cells = [fold(tmp_path, f"{i}" * 12, value) for i, value in enumerate([70.0, 90.0, 80.0])]
    _, entries, _ = shown(tmp_path, table6(cells))
    (entry,) = (e for e in entries if e.row == "clip4vla" and e.dataset == "esc50")
    assert (entry.ours, entry.fold_sd, entry.verdict) == (80.0, 10.0, "below")


def varied(tmp_path, key="a" * 12):
    """Return an evaluation with a variant for all galleries and one for clips with sound alone."""
    found = metrics(key, 40.0, gallery=("all", "with_sound"))
    silent = metrics(key, 30.0, gallery=("all", "with_sound"))
    alone = metrics(key, 50.0, gallery=("with_sound",))
    keep = ("galleries", "protocol", "missing_audio")
    found["variants"] = {
        "audio=silent": {name: silent[name] for name in keep} | {"scored": 20},
        "missing_audio=filter": {name: alone[name] for name in keep}
        | {"scored": 17, "missing_audio": "filter"},
    }
    write_json(tmp_path / "runs" / key / "metrics.json", found)

    def cell(variant, *galleries):
        shared = {"dataset": "msrvtt", "seed": 0, "run_key": key, "variant": variant}
        return [shared | {"gallery": gallery} for gallery in galleries]

    rows = [
        {"row": "own", "label": "own", "cells": cell("", "all", "with_sound")},
        {"row": "silent", "label": "silent", "cells": cell("audio=silent", "all", "with_sound")},
        {"row": "filter", "label": "filter", "cells": cell("missing_audio=filter", "with_sound")},
    ]
    columns = [{"dataset": "msrvtt", "metric": "t2v_R1", "label": "R@1"}]
    return {"table": "p", "title": "T", "paper_table": "none", "columns": columns, "rows": rows}


def test_rows_of_one_evaluation_show_their_variants_and_galleries_stay_apart(tmp_path):
    _, entries, text = shown(tmp_path, varied(tmp_path))
    found = {(e.row, e.gallery): e for e in entries}
    assert {key: e.ours for key, e in found.items()} == {
        ("own", "all"): 40.0,
        ("own", "with_sound"): 40.0,
        ("silent", "all"): 30.0,
        ("silent", "with_sound"): 30.0,
        ("filter", "with_sound"): 50.0,
    }
    assert found["filter", "with_sound"].policy == "filter"
    assert found["filter", "with_sound"].scored == "17"
    assert found["silent", "all"].variant == "audio=silent"
    # The line of the row that has one gallery says which: it is not that of its neighbours.
    assert text.count("ours (with sound, 1 seed)") == 3
    assert text.count("ours (all, 1 seed)") == 2


def test_a_missing_variant_is_reported(tmp_path):
    sheet = varied(tmp_path)
    sheet["rows"][1]["cells"][0]["variant"] = "audio=loud"
    with pytest.raises(UserError, match="no variant 'audio=loud' .it has audio=silent, missing"):
        shown(tmp_path, sheet)


def swept(tmp_path, waiting=False):
    key, names = "b" * 12, [f"nonverbal_share={i / 10:g}" for i in range(11)]
    found = metrics(key, 5.0, gallery=("with_sound",))
    found["variants"] = {
        name: {"missing_audio": "filter", "protocol": "with_sound", "scored": 17}
        | {"galleries": metrics(key, 5.0 + i * (10 - i) / 5, gallery=("with_sound",))["galleries"]}
        for i, name in enumerate(names)
    }
    write_json(tmp_path / "runs" / key / "metrics.json", found)
    datasets = {"msrvtt": key} | ({"vatex": "c" * 12} if waiting else {})
    rows = [
        {
            "row": f"w{i:02d}",
            "label": f"w = {i / 10:g}",
            "at": i / 10,
            "cells": [
                {"dataset": d, "seed": None, "run_key": k, "gallery": "with_sound", "variant": name}
                for d, k in datasets.items()
            ],
        }
        for i, name in enumerate(names)
    ]
    columns = [
        {"dataset": dataset, "metric": f"t2v_{name}", "label": label}
        for dataset in datasets
        for name, label in (("R1", "R@1"), ("R10", "R@10"), ("MedR", "MedR"))
    ]
    given = {"table": "figure4", "title": "Figure 4", "sweep": "nonverbal_share"}
    return given | {"columns": columns, "rows": rows}


def test_a_sweep_is_a_line_per_dataset_in_a_panel_per_metric(tmp_path):
    sheet, entries, _ = shown(tmp_path, swept(tmp_path, waiting=True))
    figure = sweep(sheet, entries)
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles[:3] == ["R@1", "R@10", "MedR, lower is better"]
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 11]
    assert [round(float(y), 3) for y in lines[0].get_ydata()] == [
        round(5.0 + i * (10 - i) / 5, 3) for i in range(11)
    ]
    ring = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    assert float(ring[0].get_xdata()[0]) == 0.5  # the best is ringed
    assert any("not run: VATEX" in text.get_text() for text in figure.axes[0].texts)
    assert encoded(figure, "svg") == encoded(sweep(sheet, entries), "svg")


def test_a_row_without_a_place_in_the_sweep_is_refused(tmp_path):
    from clip4vla.results.sheet import read_sheet

    value = swept(tmp_path)
    value["rows"][3].pop("at")
    write_json(tmp_path / "rows.json", value)
    with pytest.raises(UserError, match="row w03: the table sweeps over nonverbal_share"):
        read_sheet(tmp_path / "rows.json")
