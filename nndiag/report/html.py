"""The report as HTML: one page that needs nothing else, or a fragment for a notebook."""

from __future__ import annotations

import base64
import functools
import hashlib
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from nndiag.findings import Reading
from nndiag.report import wording
from nndiag.report.inert import plain_name, plain_part, spans
from nndiag.report.report import Report


def render_html(report: Report) -> str:
    """A page without scripts or requests; its policy allows its own style sheet and nothing else."""
    style = _style()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    template = _environment().get_template("page.html.j2")
    return template.render(_content(report), policy=policy, style=Markup(style))


def render_fragment(report: Report) -> str:
    """The same inside one element, with style rules that touch nothing outside it."""
    template = _environment().get_template("fragment.html.j2")
    return template.render(_content(report), style=Markup(_style()))


def _content(report: Report) -> dict[str, Any]:
    return {
        "report": report,
        "active": [finding for finding in report.findings if finding.is_active],
        "resolved": [finding for finding in report.findings if not finding.is_active],
        "headline": wording.headline(report),
        "summary": wording.summary(report),
        "readings": _tables(report.readings),
        "coverage": wording.coverage_counts(report.coverage),
        "unseen": wording.unseen(report.coverage),
    }


def _tables(
    readings: tuple[Reading, ...],
) -> dict[str, tuple[list[str], dict[str | None, dict[str, Reading]]]]:
    """For each measure its columns, and for each layer its readings by column."""
    tables: dict[str, tuple[list[str], dict[str | None, dict[str, Reading]]]] = {}
    for reading in readings:
        columns, rows = tables.setdefault(reading.measure, ([], {}))
        if reading.name not in columns:
            columns.append(reading.name)
        rows.setdefault(reading.layer, {})[reading.name] = reading
    return tables


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("nndiag.report"),
        autoescape=True,
        finalize=_inert,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "prose": _prose,
        "name": plain_name,
        "number": wording.number,
        "since": wording.since,
        "evidence": wording.evidence,
        "advice": wording.advice,
        "places": wording.places,
    }
    return environment


@functools.cache
def _style() -> str:
    environment = _environment()
    assert environment.loader is not None
    source, _, _ = environment.loader.get_source(environment, "report.css")
    return source


def _inert(value: Any) -> Any:
    """Every text that a template puts out passes here; jinja escapes it afterwards."""
    return plain_part(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _prose(text: str) -> Markup:
    """A sentence with its code marked."""
    parts = (Markup("<code>{}</code>").format(part) if code else escape(part) for part, code in spans(text))
    return Markup().join(parts)
