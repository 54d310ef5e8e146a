"""The plan refuses unknown names of paper.tsv and unknown architectures."""

from pathlib import Path

import pytest

from clip4vla.common.errors import UserError
from clip4vla.stages.planning import checked_plan

REPO = Path(__file__).parents[2]
DEMO = [REPO / "config.yaml", REPO / "demo" / "config.yaml"]
PAPER = (REPO / "experiments" / "paper.tsv").read_text()


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Make the plan of the demo's retrieval table, with changes to it or to paper.tsv."""
    monkeypatch.chdir(tmp_path)

    def write(old="", new="", paper=PAPER, values=None):
        text = (REPO / "demo" / "experiments" / "demo_retrieval.yaml").read_text()
        assert old in text
        (tmp_path / "demo_retrieval.yaml").write_text(text.replace(old, new, 1))
        if paper is not None:
            (tmp_path / "paper.tsv").write_text(paper)
        given = {"experiments": ".", "paper": "paper.tsv", "targets": ["demo_retrieval"]}
        return checked_plan(DEMO, given | (values or {}))

    return write


def refused(plan, **given) -> str:
    with pytest.raises(UserError) as caught:
        plan(**given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_shipped_configs_pass():
    assert checked_plan([REPO / "config.yaml"]).runs
    assert checked_plan(DEMO).runs


def test_a_table_that_the_paper_has_not_is_refused(plan, tmp_path):
    text = refused(plan, old="paper_table: table1", new="paper_table: tabel1")
    assert text.startswith(f"{tmp_path}/demo_retrieval.yaml:9: paper_table: ")
    assert "has no table 'tabel1' (none: compare with nothing); did you mean table1?" in text
    assert plan("paper_table: table1", "paper_table: none").runs
    text = refused(plan, old="paper_table: table1", new="paper_table: [table1, tabel2]")
    assert "has no table 'tabel2'" in text and "did you mean table2?" in text
    assert plan("paper_table: table1", "paper_table: [table2, table1]").runs


def test_a_dataset_that_the_papers_table_has_not_is_refused(plan, tmp_path):
    text = refused(plan, old="paper_dataset: msrvtt", new="paper_dataset: msrvt")
    assert text.startswith(f"{tmp_path}/demo_retrieval.yaml:13: paper_dataset: ")
    assert "has no dataset 'msrvt' in table 'table1'; did you mean msrvtt?" in text


def test_a_number_of_no_table_is_refused(plan, tmp_path):
    fields = ["tabel5", "r", "R", "msrvtt", "1k-A", "t2v_R1", "1.5", "mine", ""]
    more = PAPER + "\t".join(fields) + "\n"
    text = refused(plan, paper=more)
    assert text.startswith(f"{tmp_path}/paper.tsv:{len(PAPER.splitlines()) + 1}: no table has the ")
    assert "did you mean table5?" in text
    for named in ("tabel5", "[table1, tabel5]"):
        (tmp_path / "other.yaml").write_text(f"table: other\npaper_table: {named}\n")
        assert plan(paper=more).runs  # another table has it, if not one of the targets
    (tmp_path / "other.yaml").rename(tmp_path / "tabel5.yaml")
    assert plan(paper=more).runs


def test_no_metrics_are_stated_in_one_line(plan, tmp_path):
    text = refused(plan, paper=None)
    assert text.startswith(f"{tmp_path}/paper.tsv: No such file or directory. Fix: correct `paper`")


def test_an_unknown_architecture_is_refused(plan):
    text = refused(plan, values={"recipe.model.architecture": "ViT-B-99"})
    assert text.startswith("command line: table demo_retrieval, row ")
    assert "model.architecture: unknown name 'ViT-B-99'. Fix: choose one like" in text
    assert "Fix: choose one like ViT-B-" in text
    assert plan(values={"recipe.model.architecture": "ViT-B-16"}).runs
