"""Every section and row of the facts on a paper that the repository cites is there.

A file with `coavt` in its path cites docs/coavt_facts.md, others docs/facts.md.
"""

import re
from pathlib import Path

REPO = Path(__file__).parents[1]
FACTS = (REPO / "docs" / "facts.md").read_text()
SECTION = re.compile(r"^#{2,3} (\d+(?:\.\d+)?)", re.M)  # 6, 6.3
KNOWN = set(SECTION.findall(FACTS)) | set(re.findall(r"^\| (D\d+) \|", FACTS, re.M))
KNOWN_OF_COAVT = set(SECTION.findall((REPO / "docs" / "coavt_facts.md").read_text()))
PLACES = ["clip4vla", "rules", "workflow", "experiments", "benchmarks", "tests", "docs"]
SUFFIXES = {".py", ".smk", ".yaml", ".json", ".md", ".rst"}
NAME = r"D?\d+(?:\.\d+)*"
CITED = re.compile(rf"\bfacts\s+({NAME}(?:(?:\s*[,-]\s*|\s+(?:to|and)\s+){NAME})*)", re.I)


def texts() -> dict[Path, str]:
    """All files that may cite, each as one line: a citation may be broken over two."""
    paths = [REPO / "config.yaml"]
    paths += [path for place in PLACES for path in sorted((REPO / place).rglob("*"))]
    return {
        path: re.sub(r'"?\s*\n\s*(?:# |f?")?', " ", path.read_text())
        for path in paths
        if path.name == "Snakefile" or (path.is_file() and path.suffix in SUFFIXES)
    }


def cited(text: str) -> set[str]:
    """`6.2` and `6.3` of "facts 6.2, 6.3"; of a range both ends."""
    return {name for names in CITED.findall(text) for name in re.findall(NAME, names, re.I)}


def known(path: Path) -> set[str]:
    """Return the sections of the document that a file cites."""
    return KNOWN_OF_COAVT if "coavt" in str(path.relative_to(REPO)) else KNOWN


def test_every_section_that_is_cited_exists():
    found = {path: cited(text) for path, text in texts().items()}
    assert sum(map(len, found.values())) > 150
    unknown = {path: names - known(path) for path, names in found.items()}
    assert {path: names for path, names in unknown.items() if names} == {}


def test_every_difference_that_is_cited_exists():
    rows = {
        path: set(re.findall(r"\bD\d+\b", text))
        for path, text in texts().items()
        if path.is_relative_to(REPO / "clip4vla")
    }
    assert len(set().union(*rows.values())) >= 9
    assert {path: names - KNOWN for path, names in rows.items() if names - KNOWN} == {}


def test_lists_and_ranges_are_read():
    numbers = "1.4-1.7, 4", "6.4 to 6.6", "7.4 and 8.2", "2, D7", "99.9"
    assert [sorted(cited(f"Facts {given}.")) for given in numbers] == [
        ["1.4", "1.7", "4"],
        ["6.4", "6.6"],
        ["7.4", "8.2"],
        ["2", "D7"],
        ["99.9"],
    ]
    assert "99.9" not in KNOWN and cited(f"facts: {3} queries") == set()


def test_no_other_document_is_cited():
    found = [path for path, text in texts().items() if re.search(r"\bengineering [A-Z]\.\d", text)]
    assert found == []
