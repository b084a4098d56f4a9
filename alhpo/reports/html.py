"""The report as one HTML page that needs no other file and no network."""

from __future__ import annotations

import base64
from importlib import resources

import jinja2

from alhpo.reports.document import Document
from alhpo.reports.findings import Findings
from alhpo.reports.formats import to_html as table_to_html
from alhpo.reports.gallery import read_gallery


def to_html(document: Document, findings: Findings) -> str:
    """Render the page."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["inline"] = _inline
    environment.filters["table"] = table_to_html
    source = resources.files("alhpo.reports") / "report.html.j2"
    template = environment.from_string(source.read_text(encoding="utf-8"))
    return template.render(
        document=document,
        grid=document.grid,
        gallery=read_gallery(findings),
    )


def _inline(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
