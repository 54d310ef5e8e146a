"""Titles, labels and names of any kind: in figures, Markdown, LaTeX, CSV and on the page."""

import csv
import io
import re
import warnings

import pandas as pd
import pytest
import yaml
from results_tree import PAPER, make_tree, rewrite

from clip4vla.common.errors import UserError
from clip4vla.config.table import read_table
from clip4vla.results.figures import encoded
from clip4vla.results.figures_compare import bars, differences
from clip4vla.results.figures_data import curves
from clip4vla.results.page import build_page
from clip4vla.results.paper import read_paper
from clip4vla.results.spreadsheet import spreadsheet_csv
from clip4vla.results.tables import build_table
from clip4vla.results.text import markdown, markdown_cell, tex

HOSTILE = (
    "$x_{$ costs $5$",  # mathtext that does not parse
    "[click](javascript:alert(1)) <script>alert(1)</script> ![i](http://x/y)",
    "=cmd|' /C calc'!A0",
    "| a | *b* _c_ `d ~e~ \\",
    "50% & #1 ^2 {x} \\input{/etc/passwd}",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_table_with_any_title_and_labels_is_built(tmp_path, text):
    root = make_tree(tmp_path)
    path = root / "tables/table1/rows.json"

    def change(value):
        value.update(
            title=text, caption=f"{text}\n\n# heading\n- item", dataset_labels={"vatex": text}
        )
        for index, row in enumerate(value["rows"]):
            row["label"] = f"{text} {index}"

    rewrite(path, change)
    out = tmp_path / "out"
    build_table(path, root / "runs", PAPER, out)
    build_page([path], root / "runs", PAPER, tmp_path / "page")
    page = (tmp_path / "page/index.html").read_text() + (out / "table.html").read_text()
    assert "<script>alert" not in page and 'href="javascript' not in page
    lines = (out / "table.md").read_text().splitlines()
    assert [line for line in lines if line.startswith("#")] == lines[:1]  # the caption adds none
    assert "<script" not in "".join(lines)
    start = next(number for number, line in enumerate(lines) if line.startswith("| row |"))
    body = [line for line in lines[start:] if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in body}) == 1
    latex = (out / "table.tex").read_text().split("\n% ")[0]
    assert r"\input{" not in latex and not re.search(r"(?<!\\)#", latex)
    cells = [row for row in csv.reader(io.StringIO((out / "table.csv").read_text()))]
    assert not [c for row in cells for c in row if c.startswith(("=", "@", "+"))]
    frame = pd.read_csv(out / "table.csv")
    assert frame.difference.min() < 0  # a negative number stays a number
    assert frame.label.str.lstrip("'").str.startswith(text).any()


@pytest.mark.parametrize("name", ["bars", "differences", "curves"])
def test_a_dollar_in_a_figure_is_a_dollar(tmp_path, name):
    text = "a $\\frac{$ b"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if name == "curves":
            frame = pd.DataFrame({"step": [1, 2], "name": ["train/loss"] * 2, "value": [2.0, 1.0]})
            figure = curves({text: frame}, text)
        else:
            root = make_tree(tmp_path)
            path = root / "tables/table1/rows.json"
            rewrite(path, lambda value: [row.update(label=text) for row in value["rows"]])
            from clip4vla.results.compare import compare
            from clip4vla.results.sheet import read_sheet
            from clip4vla.results.tidy import build_tidy

            sheet = read_sheet(path)
            entries = compare(sheet, build_tidy([sheet], root / "runs"), read_paper(PAPER))
            figure = bars(sheet, entries) if name == "bars" else differences(entries)
        assert f"<!-- {text} -->" in encoded(figure, "svg").decode() or name == "differences"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("t2v_R1 of test_1k", "t2v_R1 of test_1k"),
        ("single [VB] and [NB]", "single [VB] and [NB]"),
        ("run `clip4vla runs ls` on a_b", "run `clip4vla runs ls` on a_b"),
        ("_a_ *b* ~c~ $d$ `e", r"\_a\_ \*b\* \~c\~ \$d\$ \`e"),
        ("[a](b) [a][b] [a]: b", r"[a]\(b) [a]\[b] [a]\: b"),
        ("<b> &lt; a & b", "&lt;b> &amp;lt; a & b"),
        ("# a", r"\# a"),
        ("1. a", r"1\. a"),
        ("- a", r"\- a"),
        ("-5 and 1.5", "-5 and 1.5"),
        ("back\\slash", r"back\\slash"),
    ],
)
def test_markdown_shows_a_text_as_it_is(text, escaped):
    assert markdown(text) == escaped


def test_a_bar_in_a_text_does_not_split_its_cell():
    assert markdown_cell("a | `b | c` \\|") == r"a \| `b \| c` \\\|"


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("#1", r"\#1"),
        ("x^2", r"x\textasciicircum{}2"),
        ("a & b % $ _ { } ~", r"a \& b \% \$ \_ \{ \} \textasciitilde{}"),
        ("\\x", r"\textbackslash{}x"),
        ("a|b<c>d", r"a\textbar{}b$<$c$>$d"),
        ("[VB]", "{}[VB]"),  # else an option of the line break before it
        ("*best", "{}*best"),
    ],
)
def test_latex_prints_every_mark(text, latex):
    assert tex(text) == latex


def test_a_spreadsheet_executes_no_text_and_keeps_ids_and_numbers():
    frame = pd.DataFrame(
        {
            "clip_id": ["-abc", "x"],
            "detail": ["=1+1", "@SUM(A1)"],
            "more": ["+a", "-b"],
            "value": [-1.5, 2.0],
            "none": [None, "a=b"],
        }
    )
    text = spreadsheet_csv(frame, "\t", ids=("clip_id",))
    assert text == (
        "clip_id\tdetail\tmore\tvalue\tnone\n-abc\t'=1+1\t'+a\t-1.5\t\nx\t'@SUM(A1)\t'-b\t2.0\ta=b\n"
    )


def test_headings_that_look_alike_have_anchors_of_their_own(tmp_path):
    root = make_tree(tmp_path)
    sheets = []
    for number, title in enumerate(("Cost", "音", "結果")):
        path = root / f"tables/t{number}/rows.json"
        path.parent.mkdir(parents=True)
        path.write_text((root / "tables/table1/rows.json").read_text())
        rewrite(path, lambda value, title=title: value.update(title=title))
        sheets.append(path)
    build_page(sheets, root / "runs", PAPER, tmp_path / "out")
    page = (tmp_path / "out/index.html").read_text()
    anchors = re.findall(r' id="([^"]*)"', page)
    assert len(set(anchors)) == len(anchors) and all(anchors)
    assert set(re.findall(r'<a href="#([^"]*)"', page)) <= set(anchors)


@pytest.mark.parametrize(
    ("key", "text"), [("title", "a\x1b[2J"), ("caption", "a\x00b"), ("note", "\x9b")]
)
def test_control_characters_are_refused_where_they_stand(tmp_path, key, text):
    value = {
        "table": "t",
        "title": "T",
        "columns": [{"dataset": "d", "metric": "t2v_R1", "label": "R"}],
        "rows": [{"row": "a", "label": "A"}],
        key: text,
    }
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(value))
    with pytest.raises(UserError, match=rf"t\.yaml:\d+: {key}: .*is a control character") as caught:
        read_table(tmp_path, "t")
    assert str(caught.value).isprintable()


def test_a_lone_surrogate_is_not_yaml(tmp_path):
    (tmp_path / "t.yaml").write_text('table: t\ntitle: "\\ud800"\n')
    with pytest.raises(UserError, match=r"t\.yaml:2: not valid YAML: .*Unicode"):
        read_table(tmp_path, "t")


@pytest.mark.parametrize("place", ["table", "row", "dataset"])
def test_a_name_that_is_invalid_in_a_macro_is_refused(tmp_path, place):
    head, first, *_ = PAPER.read_text().splitlines()
    fields = dict(zip(head.split("\t"), first.split("\t"), strict=True)) | {place: "a#{b"}
    (tmp_path / "paper.tsv").write_text("\n".join([head, "\t".join(fields.values())]))
    with pytest.raises(UserError, match=rf"paper\.tsv:2: {place} 'a#\{{b'"):
        read_paper(tmp_path / "paper.tsv")
