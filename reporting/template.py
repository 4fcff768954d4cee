"""Sections -> one HTML file by the template of reports, which loads nothing from a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gapl.files.atomic import replacing
from reporting.blocks import Section

TEMPLATES = Path(__file__).with_name("templates")


def write_page(path: Path, sections: Sequence[Section], *, title: str, models: Sequence[str]) -> None:
    """Write the file whole or not at all.

    models   what the page is of, below its title
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(title=title, sections=sections, models=models)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as scratch:
        scratch.write_text(page, encoding="utf-8", errors="replace")
