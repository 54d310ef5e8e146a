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
