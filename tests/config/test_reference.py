"""docs/config.md, the schemas and config.yaml stay in step with the code."""

import json
from pathlib import Path

from clip4vla.config.reference import markdown, schemas

REPO = Path(__file__).parents[2]
REMEDY = "out of date: run `clip4vla config reference .`"


def test_the_reference_page_is_up_to_date():
    assert (REPO / "docs" / "config.md").read_text() == markdown(), REMEDY


def test_the_schemas_are_up_to_date():
    for name, schema in schemas().items():
        assert json.loads((REPO / "workflow" / "schemas" / name).read_text()) == schema, REMEDY


def test_every_key_is_explained():
    empty = [line for line in markdown().splitlines() if line.rstrip().endswith("|  |")]
    assert empty == []


def test_every_row_of_a_table_is_one_line_with_all_its_cells():
    cells = 0
    for line in markdown().splitlines():
        found = line.replace("\\|", "").count("|")
        cells = found if line.startswith("| key ") else cells
        assert found in (0, cells) and line[:3] != "   ", line


def test_defaults_are_those_of_the_outer_section():
    lines = markdown().splitlines()
    for key, default in (
        ("pretrain.second_stage.optimiser.epochs", "10"),
        ("pretrain.optimiser.epochs", "5"),
        ("finetune.objective.symmetric", "false"),
    ):
        (line,) = (line for line in lines if line.startswith(f"| `{key}` "))
        assert f"| `{default}` |" in line
