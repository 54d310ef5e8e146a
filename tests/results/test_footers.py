"""Footers of the shipped tables before anything has run: missing numbers and notes."""

from dataclasses import replace
from pathlib import Path

import pytest
from results_tree import metrics

from clip4vla.common.files import write_json
from clip4vla.config.planner import make_plan
from clip4vla.results.compare import as_frame
from clip4vla.results.paper import read_paper
from clip4vla.results.sheet import Sheet
from clip4vla.results.tables import table_views
from clip4vla.results.tidy import build_tidy

REPO = Path(__file__).parents[2]
WAITING = "Not run, its runs have not ended (`clip4vla runs ls` names them): "


@pytest.fixture(scope="module")
def printed():
    """Return the lines of the footers by table."""
    plan = make_plan([REPO / "config.yaml"])
    paper = read_paper(plan.config.paper)
    found = {}
    for name in plan.tables:
        sheet = Sheet.model_validate(plan.sheet(name))
        _, grid = table_views(sheet, build_tidy([sheet], "nowhere"), paper)
        found[name] = grid.footers
    return found


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ("table1", "CLIP4VLA, Table 1 (VLM on MSR-VTT R@10): as printed; only 1.9 above R@5, "),
        ("table1", "on VATEX): the released script scores the validation list; the text says test"),
        ("table3", "CLIP4VLA, Table 3 (CLIP4VLA on MSR-VTT ROUGE-L): below Clip4Caption's 64.8."),
        ("table5", "CLIP4VLA, Table 5 (every row on MSR-VTT, VATEX): the paper does not say"),
        ("table5", "(5 +Audio Type Token on VATEX MedR): as printed: worse than the row above"),
        ("table6", "CLIP4VLA, Table 6 (VATT-Medium; CLIP4VLA on ESC-50): audio only."),
        ("table6", "CLIP4VLA, Table 6 (VATT-Medium; CLIP4VLA on UCF101): vision and audio."),
        ("audio_visual", "(CAV-MAE; CAV-MAE Scale+ on AudioSet-20K): AudioSet is its pre-training"),
        (
            "audio_visual",
            "(VAB-Encodec (fine-tuned) on AudioSet-20K, VGGSound): fine-tuned: an upper",
        ),
    ],
)
def test_a_note_is_printed_once_for_its_numbers(printed, table, line):
    assert len([text for text in printed[table] if line in text]) == 1, printed[table]


def test_rows_without_a_number_of_the_papers_say_why_they_are_not_there(printed):
    everywhere = f"{WAITING}every row of ours on "
    assert f"{everywhere}AudioCaps, MSR-VTT, VATEX." in printed["figure4"]
    assert f"{everywhere}MSR-VTT, VATEX." in printed["table1"]
    assert f"{WAITING}CLIP, vision only; CLIP4VLA on MSR-VTT." in printed["table3"]
    for table, lines in printed.items():
        assert any(line.startswith(WAITING) for line in lines), table


def test_a_table_of_sounds_and_pictures_says_what_shares_a_video_and_how_ties_count(tmp_path):
    values = {f"{way}_R1": 50.0 for way in ("a2v", "v2a")}
    scored = metrics("aaaaaaaaaaa0", 0.0, gallery=("with_sound",), metrics_of=values)
    gallery = scored["galleries"]["with_sound"]
    gallery |= {"same_video": 4, "extras": {"released": {"a2v_R1": 40.0}}}
    scored |= {"query": "audio", "gallery": "with_sound", "missing_audio": "filter"}
    write_json(tmp_path / "aaaaaaaaaaa0" / "metrics.json", scored)
    names = {"a2v_R1": "R@1 (a2v)", "v2a_R1": "R@1 (v2a)", "released/a2v_R1": "R@1 (released, a2v)"}
    columns = [{"dataset": "vggsound", "metric": m, "label": label} for m, label in names.items()]
    cell = {"dataset": "vggsound", "seed": None, "run_key": "aaaaaaaaaaa0", "gallery": "with_sound"}
    row = {"row": "ours", "label": "ours", "cells": [cell]}
    sheet = Sheet(table="audio_visual", title="T", columns=columns, rows=[row])
    entries, grid = table_views(sheet, build_tidy([sheet], tmp_path), [])
    assert grid.headings[:3] == tuple(names.values()) and grid.groups[0][0] == "VGGSound"
    data = "N = 17, 4 of them share a video with another one, ids sha256"
    assert any(data in line for line in grid.footers)
    rule = "released (a2v, v2a): between sounds and pictures, each place of a tie is an answer"
    assert [line for line in grid.footers if line.startswith("released")][0].startswith(rule)
    assert as_frame(entries).same_video.tolist() == ["4"] * 3
    assert "same_video" not in as_frame([replace(entry, same_video="") for entry in entries])
