"""Pages for people: links lead somewhere, commands exist, pictures and tables are up to date."""

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

import pytest
import typer

from clip4vla.cli.main import app
from clip4vla.config.part import narrowed
from clip4vla.config.planner import make_plan

REPO = Path(__file__).parents[1]
TOP = sorted(REPO.glob("*.md"))
PAGES = [*TOP, *sorted((REPO / "docs").glob("*.md")), REPO / "benchmarks" / "RESULTS.md"]
README = (REPO / "README.md").read_text()
REQUIRED = "CLIP4VLA_REQUIRE_DOCS"  # set where a site that cannot be built is a failure


def name_of(page: Path) -> str:
    return str(page.relative_to(REPO))


def without_code(text: str) -> str:
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]+`", "", text)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    found: set[str] = set()
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        number = 0
        while (numbered := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(numbered)
    return found


def links(page: Path) -> list[str]:
    text = without_code(page.read_text())
    found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    return [link for link in found if not link.startswith(("https://", "http://", "mailto:"))]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page):
    for link in links(page):
        path, _, anchor = unquote(link).partition("#")
        if anchor in ("only-light", "only-dark"):  # of mkdocs-material, for pictures
            anchor = ""
        target = (page.parent / path).resolve() if path else page
        assert target.exists() and target.is_relative_to(REPO), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lists_begin_after_an_empty_line(page):
    """The site would read them as part of the paragraph before, although GitHub does not."""
    text = without_code(page.read_text())
    assert re.findall(r"^(?![*\-#|<>\s]|\d+\. ).+\n(?:[*-]|\d+\.) .*", text, re.MULTILINE) == []


def shell_lines(page: Path) -> list[str]:
    """Commands in the code blocks without a language, or of a shell, without their comments."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    text = "\n".join(block for language, block in blocks if language in ("", "sh", "bash"))
    text = text.replace("\\\n", " ")
    return [re.sub(r"\s#.*", "", line).strip() for line in text.splitlines()]


def test_commands_and_their_options_exist():
    checked = 0
    for page in PAGES:
        for line in shell_lines(page):
            if not line.startswith("clip4vla "):
                continue
            words = shlex.split(line.split(" | ")[0].split(" && ")[0])[1:]
            command = typer.main.get_command(app)
            while hasattr(command, "commands") and not words[0].startswith("-"):
                assert words[0] in command.commands, (name_of(page), line)
                command = command.commands[words.pop(0)]
            known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
            options = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            assert options <= known, (name_of(page), line, options - known)
            checked += 1
    assert checked > 50


def test_rows_and_profiles_of_commands_exist():
    plan = make_plan([REPO / "config.yaml"])
    rows = {f"{name}/{row['row']}" for name in plan.tables for row in plan.sheet(name)["rows"]}
    named, profiles = set(), set()
    for page in (REPO / "README.md", REPO / "docs" / "workflow.md", REPO / "docs" / "cluster.md"):
        text = "\n".join(shell_lines(page))
        named |= set(re.findall(r"(?:results/rows/|clip4vla plan )(\w+/\w+)", text))
        profiles |= set(re.findall(r"--profile (profiles/\w+)", text))
    assert named and named <= rows
    assert profiles and all((REPO / name / "config.yaml").is_file() for name in profiles)


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        words = re.findall(r"(?:^|`)make ([a-z][a-z-]*)", page.read_text(), re.MULTILINE)
        assert set(words) <= targets, (name_of(page), set(words) - targets)


def test_the_readme_begins_with_a_command_and_stays_short():
    lines = README.splitlines()
    assert next(n for n, line in enumerate(lines) if line.startswith("make demo")) < 25
    assert len(lines) < 200
    pages = {path.name for path in (REPO / "docs").glob("*.md")}
    index = (REPO / "docs" / "index.md").read_text()
    assert {name for name in pages - {"index.md"} if f"({name})" not in index} == set()


def test_drawn_pictures_are_up_to_date(tmp_path):
    command = [sys.executable, REPO / "workflow" / "scripts" / "docs_pictures.py", "--check"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_row_that_the_first_tutorial_adds_trains_itself_alone(tmp_path):
    page = (REPO / "docs" / "laptop.md").read_text()
    (line,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    tables = REPO / "demo" / "experiments"
    for path in tables.glob("*.yaml"):
        text = path.read_text()
        (tmp_path / path.name).write_text(text + line if path.stem == "demo_retrieval" else text)
    config = [REPO / "demo" / "config.yaml"]
    before = make_plan(config)
    after = make_plan(config, {"experiments": str(tmp_path)})
    new = set(after.runs) - set(before.runs)
    assert set(before.runs) < set(after.runs)
    assert new < set(narrowed(after, "demo_retrieval/short").runs)
    found = {
        stage: len(new & set(after.stage(stage))) for stage in ("pretrain", "finetune", "evaluate")
    }
    assert found == {"pretrain": 0, "finetune": 2, "evaluate": 2}


def test_the_site_builds_without_a_warning(tmp_path):
    """Broken links, unknown anchors and pages outside the navigation are errors there."""
    if find_spec("material") is None or find_spec("mkdocstrings") is None:
        assert not os.environ.get(REQUIRED), "the extra `docs` is not installed: make install"
        pytest.skip("the extra `docs` is not installed: make install")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    page = (tmp_path / "site" / "api.html").read_text()
    assert 'id="clip4vla.load"' in page and "UserError" in page
    assert (tmp_path / "site" / "source" / "experiments" / "table5.yaml.html").is_file()
