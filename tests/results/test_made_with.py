"""Verdicts only on the paper's model and data; footers describe the model behind a number."""

from pathlib import Path

import pytest
from results_tree import PAPER, made_with, metrics, trained_on

from clip4vla.common.files import write_json
from clip4vla.config.load import load_config
from clip4vla.datasets import readers
from clip4vla.results.compare import compare
from clip4vla.results.figures_compare import bars, differences
from clip4vla.results.footers import footers
from clip4vla.results.made_with import PRETRAINED, described
from clip4vla.results.metrics_file import MadeWith
from clip4vla.results.order import orders
from clip4vla.results.paper import read_paper
from clip4vla.results.sheet import Sheet
from clip4vla.results.tidy import build_tidy

REPO = Path(__file__).parents[2]
RANDOM = {"architecture": "tiny", "weights": None, "weights_sha256": None, "published": None}


def table(tmp_path, made, rows=("clip",), policy="substitute"):
    """Rows of Table 1 that are far above the paper's R@1, all made with `made`; and its entries."""
    for row in rows:
        found = metrics(row, 60.0) | {"made_with": made, "missing_audio": policy}
        write_json(tmp_path / "runs" / row / "metrics.json", found)
    cells = {row: [{"dataset": "msrvtt", "seed": None, "run_key": row}] for row in rows}
    sheet = Sheet.model_validate(
        {
            "table": "t",
            "title": "T",
            "paper_table": "table1",
            "columns": [{"dataset": "msrvtt", "metric": "t2v_R1", "label": "R@1"}],
            "rows": [
                {"row": row, "label": "CLIP (zero-shot)", "cells": cells[row]} for row in rows
            ],
        }
    )
    entries = compare(sheet, build_tidy([sheet], tmp_path / "runs"), read_paper(PAPER))
    return sheet, entries, footers(sheet, entries, read_paper(PAPER), {})


@pytest.mark.parametrize(
    ("more", "verdict", "reason"),
    [
        ({}, "above", ""),
        ({"architecture": "ViT-B-32-quickgelu"}, "above", ""),
        ({"published": "open_clip's ViT-B-32:openai"}, "above", ""),
        (RANDOM, "not comparable", "towers are tiny (quick_gelu), the paper's ViT-B-32"),
        (RANDOM, "not comparable", "towers began with random weights, the paper's with OpenAI's"),
        ({"architecture": "ViT-B-16"}, "not comparable", "towers are ViT-B-16 (quick_gelu)"),
        ({"activation": "gelu"}, "not comparable", "towers are ViT-B-32 (gelu)"),
        (
            {"published": None, "weights_sha256": "e" * 64},
            "not comparable",
            "it began with openai (an unknown file, sha256 eeeeeeeeeeee), the paper's with OpenAI's",
        ),
        ({"published": "OpenAI's ViT-B-16.pt"}, "not comparable", "OpenAI's ViT-B-16.pt, sha256"),
        (
            {"published": None, "imported": True},
            "not comparable",
            "it began with openai (an imported model, sha256 40d365715913), whose training is not",
        ),
        ({"reader": "demo"}, "not comparable", "clips are of demo, the paper's of msrvtt"),
        (
            {"trainings": [trained_on("demo")]},
            "not comparable",
            "pre-trained on demo, the paper on audioset and howto100m",
        ),
        (
            {"trainings": [trained_on("howto100m", "audioset")]},
            "not comparable",
            "it was pre-trained, the paper's row was not",
        ),
        (
            {"trainings": [trained_on("msrvtt", stage="finetune", usable=97)]},
            "partial",
            "trained on 97 of 100 clips of msrvtt-v1-0a1b2c train",
        ),
        ({"trainings": [trained_on("msrvtt", stage="finetune", usable=98)]}, "above", ""),
        (
            {"trainings": [trained_on("msrvtt", stage="finetune", expected=None, tolerance=None)]},
            "not comparable",
            "trained on msrvtt-v1-0a1b2c train, whose number of clips is not declared",
        ),
    ],
)
def test_a_verdict_needs_the_model_and_data_of_the_row(tmp_path, more, verdict, reason):
    _, entries, lines = table(tmp_path, made_with(**more))
    (entry,) = [entry for entry in entries if entry.kind == "ours"]
    assert (entry.verdict, entry.ours) == (verdict, 60.0)
    assert reason in entry.reason and (reason == "") == (entry.reason == "")
    if reason:
        assert any(reason in line and line.lower().startswith(verdict) for line in lines), lines


def test_metrics_of_an_older_version_get_no_verdict(tmp_path):
    _, entries, lines = table(tmp_path, None)
    assert [entry.verdict for entry in entries if entry.kind == "ours"] == ["not comparable"]
    assert "First weights: not recorded." in lines
    assert any("does not record the model" in line for line in lines)


def test_a_number_that_the_paper_does_not_have_is_not_held_against_the_papers_model(tmp_path):
    few = trained_on("msrvtt", stage="finetune", usable=1)
    sheet, *_ = table(tmp_path, made_with(**RANDOM | {"trainings": [few, few]}), rows=("clip",))
    row = sheet.rows[0].model_copy(update={"row": "of_ours"})
    sheet = sheet.model_copy(update={"rows": [row]})
    (key,) = (cell.run_key for cell in row.cells)
    assert (tmp_path / "runs" / key).is_dir()
    entries = compare(sheet, build_tidy([sheet], tmp_path / "runs"), read_paper(PAPER))
    assert [(e.ours, e.verdict) for e in entries if e.row == "of_ours"] == [(60.0, "—")]


def test_random_towers_are_not_averaged_and_marked_in_every_figure(tmp_path):
    sheet, entries, lines = table(tmp_path, made_with(**RANDOM), rows=("clip", "clip4vla"))
    assert not any("mean difference" in line for line in lines)
    assert orders(sheet, entries) == {}
    (legend,) = bars(sheet, entries).legends
    assert "not comparable" in legend.get_texts()[0].get_text()
    assert "not comparable" in differences(entries).get_suptitle()


def test_footers_describe_the_model_behind_a_number(tmp_path):
    pretraining = [trained_on("howto100m"), trained_on("audioset")]
    pretraining[0]["clips"] += pretraining.pop()["clips"]
    tuned = trained_on("msrvtt", stage="finetune", clips=1234)
    _, _, lines = table(tmp_path, made_with(trainings=[*pretraining, tuned]))
    assert "Model: ViT-B-32 (quick_gelu)." in lines
    assert "First weights: openai (OpenAI's ViT-B-32.pt, sha256 40d365715913)." in lines
    on = "howto100m-v1-0a1b2c train (90 clips) and audioset-v1-0a1b2c train (90 clips)"
    assert f"Pre-training: run {'f' * 12} on {on}." in lines
    assert "Fine-tuning: msrvtt-v1-0a1b2c train (1,234 clips)." in lines


def test_rows_of_different_weights_are_distinguished(tmp_path):
    other = made_with(**RANDOM)
    sheet, *_ = table(tmp_path, made_with(), rows=("clip", "clip4vla"))
    write_json(
        tmp_path / "runs/clip4vla/metrics.json", metrics("clip4vla", 60.0) | {"made_with": other}
    )
    entries = compare(sheet, build_tidy([sheet], tmp_path / "runs"), read_paper(PAPER))
    found = {entry.row: (entry.verdict, entry.weights) for entry in entries if entry.kind == "ours"}
    assert found["clip4vla"] == ("not comparable", "random")
    assert found["clip"][0] == "above" and found["clip"][1].startswith("openai (OpenAI's")


def test_a_second_stage_is_described_after_the_first():
    made = made_with(trainings=[trained_on("howto100m"), trained_on("audioset")])
    text = described(MadeWith.model_validate(made))["pretraining"]
    assert text.index("howto100m-v1") < text.index(", then run") < text.index("audioset-v1")


def test_the_shipped_config_declares_the_official_number_of_clips_of_every_scored_split():
    config, _ = load_config([REPO / "config.yaml"])
    checked = 0
    for name, dataset in config.datasets.items():
        if name == "audioset":
            continue  # for pre-training alone
        for split, benchmark in getattr(readers()[dataset.reader], "BENCHMARKS", {}).items():
            assert dataset.expected_clips(split) == benchmark.clips, (name, split)
            checked += 1
    assert checked == 19


def test_a_number_that_reads_the_test_captions_is_not_judged(tmp_path):
    """The donors of its silent clips were chosen by the queries themselves."""
    _, entries, lines = table(tmp_path, made_with(), policy="released_links")
    (judged,) = [e for e in entries if e.row == "clip"]
    assert (judged.verdict, judged.reason) == (
        "not comparable",
        "donors of sound were chosen by the test captions",
    )
    assert any(judged.reason in line for line in lines)


@pytest.mark.parametrize(
    ("row", "pretrained", "reason"),
    [
        ("clip4vla", True, ""),
        ("clip4vla", False, "it was not pre-trained, the paper's row was"),
        ("clip", False, ""),
        ("clip", True, "it was pre-trained, the paper's row was not"),
        ("clip4clip", True, ""),
        ("clip4clip", False, ""),
    ],
)
def test_a_verdict_needs_the_pretraining_of_the_row(tmp_path, row, pretrained, reason):
    _, entries, _ = table(tmp_path, made_with(pretrained=pretrained), rows=(row,))
    (judged,) = [e for e in entries if e.row == row]
    assert judged.verdict == ("not comparable" if reason else "above")
    assert judged.reason == reason


def test_every_row_of_the_papers_model_is_listed_as_pretrained_or_not():
    """A row that is added to paper.tsv under our model's name is judged with its pre-training."""
    ours = {n.row for n in read_paper(PAPER) if n.row.startswith("clip4vla") or n.table == "table5"}
    assert ours <= set(PRETRAINED)
