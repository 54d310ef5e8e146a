"""Text with markup in every field that a file of a user can set: on the page, in LaTeX and CSV."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest
from results_tree import PAPER, make_tree, rewrite

from clip4vla.common.files import write_json
from clip4vla.results.behind import Planned
from clip4vla.results.page import About, build_page
from clip4vla.results.tables import build_table
from clip4vla.tracking.attempts import append_attempt

ATTACK = (
    '=1+{0}<script>alert({0})</script>"\' onmouseover="alert({0})" [x](javascript:alert({0})) '
    "![i](http://x/{0}) </title></style><img src=x onerror=alert({0})> \\input{{{0}}} ${0}$ `<b>` | #"
)
HELD = "run_key", "dataset", "split", "gallery", "task", "query", "stage", "variant", "kind"
MATH = ("$<$", "$>$", r"$\pm$", "$-$", r"$\times$")  # that LaTeX tables contain
TAGS = {"img", "iframe", "object", "embed", "link", "base", "form"}  # that the pages lack


class Attacks:
    """Texts to put into fields, each with its number."""

    def __init__(self):
        self.count = 0

    def __call__(self, _=None):
        self.count += 1
        return ATTACK.format(self.count)

    def within(self, value):
        """The value with each of its texts replaced, but names, hashes and texts of code."""
        if isinstance(value, dict):
            return {
                key: part if key in HELD or "sha256" in key else self.within(part)
                for key, part in value.items()
            }
        if isinstance(value, list):
            return [self.within(part) for part in value]
        return self(value) if isinstance(value, str) else value


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    """Results whose every text is an attack."""
    attack, tmp_path = Attacks(), tmp_path_factory.mktemp("poisoned")
    root = make_tree(tmp_path / "results")

    def sheet(value):
        value.update(title=attack(), caption=attack(), note=attack(), footers=[attack()])
        value.update(dataset_labels={"vatex": attack()}, comparable=False, sweep=attack())
        value["columns"] = [column | {"label": attack()} for column in value["columns"]]
        for place, row in enumerate(value["rows"]):
            row.update(label=attack(), at=float(place))
            for cell in row["cells"]:
                if cell.get("no_data"):
                    cell["no_data"] = attack()

    rewrite(root / "tables/table1/rows.json", sheet)
    for path in root.glob("runs/*/metrics.json"):
        rewrite(path, lambda value: value.update(attack.within(value)))
    lines = PAPER.read_text().splitlines()
    paper = tmp_path / "paper.tsv"
    texts = {"label", "protocol", "source", "note"}
    head = lines[0].split("\t")
    labels: dict[tuple[str, str], str] = {}
    for number, line in enumerate(lines[1:], start=1):
        fields = dict(zip(head, line.split("\t"), strict=True))
        own = labels.setdefault((fields["table"], fields["row"]), attack())
        fields |= {name: own if name == "label" else attack() for name in texts}
        lines[number] = "\t".join(fields.values())
    paper.write_text("\n".join(lines))
    trained = root / "runs" / ("0" * 12)
    write_json(trained / "cost.json", {"hours": 1, "hardware": {attack(): 2.0}, "attempts": 1})
    write_json(trained / "train.json", {"batch_size": 8, "trainable_parameters": 9})
    curve = {"step": 1, "epoch": 1, f"train/{attack()}": 1.0}
    (trained / "metrics.jsonl").write_text(json.dumps(curve) + "\n")
    (tmp_path / "coverage.csv").write_text(
        "split,expected,planned,fetched,with_video,with_sound,silent\ntest,9,8,7,6,5,1\n"
    )
    state = tmp_path / "state"
    append_attempt(state, {"started_ms": 1, "seconds": 1, "git_sha": attack()})
    sheets = [root / "tables/table1/rows.json"]
    build_table(sheets[0], root / "runs", paper, root / "tables/table1")
    build_page(
        sheets,
        root / "runs",
        paper,
        root,
        planned={"0" * 12: Planned(attack(), "finetune")},
        coverage_files={attack(): tmp_path / "coverage.csv"},
        states=[state],
        about=About(title=attack(), tiny=True, facts={attack(): attack()}),
    )
    return root


def test_no_text_of_a_user_becomes_markup(poisoned):
    for name in ("index.html", "tables/table1/table.html"):
        text = (poisoned / name).read_text()
        page = Page(text)
        assert not page.tags & TAGS
        assert not [name for name, _ in page.attributes if name.startswith("on")]
        links = [value for name, value in page.attributes if name in ("href", "src")]
        assert not [link for link in links if ":" in link or link.startswith("//")]
        assert text.count("<script") == 1 and "&lt;script&gt;alert(" in text


def test_latex_and_markdown_print_the_texts(poisoned):
    folder = poisoned / "tables/table1"
    latex = [line for line in (folder / "table.tex").read_text().splitlines() if line[:1] != "%"]
    for line in latex:
        for mark in MATH:
            line = line.replace(mark, "")
        assert r"\input{" not in line and not re.search(r"(?<!\\)[#$]", line)
    numbers = (folder.parents[1] / "numbers.tex").read_text().split(r"\makeatletter", 1)[1]
    assert "alert" not in numbers
    markdown = (folder / "table.md").read_text()
    assert "<script" not in re.sub(r"`[^`\n]*`", "", markdown)
    assert not re.search(r"(?<!\\)\]\(", markdown)


def test_a_spreadsheet_executes_nothing(poisoned):
    for path in (
        poisoned / "tidy.csv",
        poisoned / "tables/table1/table.csv",
        poisoned / "tables/table1/tidy.csv",
    ):
        for row in csv.DictReader(io.StringIO(path.read_text())):
            for name, cell in row.items():
                if not re.fullmatch(r"-?[\d.]+(e-?\d+)?", cell):
                    assert not cell.startswith(("=", "+", "-", "@")), (path.name, name, cell)
