"""Render the HTML pages of a room from its Jinja templates, `<room>/*.html`; texts are escaped."""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("clip4vla", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **values: Any) -> str:
    """Return the page of a template such as `pages/donors.html`.

    Every text in `values` is escaped, except where it is a `markupsafe.Markup`.
    """
    return _environment().get_template(template).render(values) + "\n"
