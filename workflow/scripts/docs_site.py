"""Hook of MkDocs: pages and sources outside docs/ that a page links to become pages of the site."""

import json
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File
from pymdownx.slugs import slugify
from pymdownx.superfences import fence_code_format

REPO = Path(__file__).resolve().parents[2]
PAGES = {  # pages of the repository, by their place in the site
    "README.md": "overview.md",
    **{
        name: name
        for name in (
            *("CONTRIBUTING.md", "CHANGELOG.md", "CODE_OF_CONDUCT.md"),
            *("benchmarks/RESULTS.md", "demo/CREDITS.md"),
        )
    },
}
LINK = re.compile(r"\]\(([^)\s:#]+)(#[^)\s]*)?\)")
TEXT_AND_LINK = re.compile(r"\[([^\[\]]*)\]\(([^)\s:#]+)\)")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".smk": "python", ".tsv": "", ".json": "json"}


def on_config(config: Any) -> Any:
    """Give headings the anchors that GitHub gives them, and draw graphs."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")
    fence = {"name": "mermaid", "class": "mermaid", "format": fence_code_format}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages, and every source file that a page links to."""
    sources: set[str] = set()
    texts = {f"docs/{file.src_uri}": file.content_string for file in files.documentation_pages()}
    texts |= {name: (REPO / name).read_text() for name in PAGES}
    for page, text in texts.items():
        for path, _ in LINK.findall(text):
            name = target_of(page, path)
            if not name.startswith("docs/") and name not in PAGES and (REPO / name).is_file():
                sources.add(name)
    for name, place in PAGES.items():
        content = (REPO / name).read_text()
        if name == "README.md":  # HTML is not rewritten, and these alerts are GitHub's
            content = content.replace('="docs/images/', '="images/').replace("> [!NOTE]\n", "")
        files.append(File.generated(config, place, content=content))
    for name in sorted(sources):
        content = f"---\nsearch: {{exclude: true}}\n---\n# {name}\n\n{shown(REPO / name)}"
        files.append(File.generated(config, place_of(name), content=content))
    return files


def shown(path: Path) -> str:
    """Return a source file as Markdown: the cells of a notebook, any other file as it is."""
    text = path.read_text(errors="replace")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        parts = [("".join(cell["source"]), cell["cell_type"]) for cell in cells]
        return "\n\n".join(
            part if kind == "markdown" else fenced(part, "python") for part, kind in parts
        )
    return fenced(text, LANGUAGES.get(path.suffix, ""))


def fenced(text: str, language: str) -> str:
    """Return text as a block of code, whatever fences are in it."""
    return f"{'`' * 6}{language}\n{text}\n{'`' * 6}\n"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links that leave docs/ into links within the site; those to folders into text."""
    place = page.file.src_uri
    if place.startswith("source/"):
        return markdown
    origin = {where: name for name, where in PAGES.items()}.get(place, f"docs/{place}")

    def without_folders(found: re.Match) -> str:
        folder = (REPO / target_of(origin, found[2])).is_dir()
        return found[1] if folder else found[0]

    def within(found: re.Match) -> str:
        name = target_of(origin, found[1])
        return f"]({os.path.relpath(place_of(name), Path(place).parent)}{found[2] or ''})"

    parts = re.split(r"(^`{3}.*?^`{3})", markdown, flags=re.DOTALL | re.MULTILINE)
    parts[::2] = [LINK.sub(within, TEXT_AND_LINK.sub(without_folders, part)) for part in parts[::2]]
    return "".join(parts)


def target_of(page: str, path: str) -> str:
    """Return the file of the repository that a link of a page leads to."""
    return os.path.relpath(REPO / Path(page).parent / path, REPO)


def place_of(name: str) -> str:
    """Return the place in the site of a file of the repository."""
    if name.startswith("docs/"):
        return name.removeprefix("docs/")
    shown_as = name.lstrip(".")  # MkDocs leaves out files that begin with a dot
    return PAGES.get(name, f"source/{shown_as}.md")
