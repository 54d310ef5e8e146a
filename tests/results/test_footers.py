"""Footers of the shipped tables before anything has run: missing numbers and notes."""

from pathlib import Path

import pytest

from clip4vla.config.planner import make_plan
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
