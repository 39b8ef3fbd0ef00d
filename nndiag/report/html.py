"""The report as HTML: one page that needs nothing else, or a fragment for a notebook.

The page begins with that fragment, for readers without JavaScript; where it runs, the modules of the dashboard
take over and draw the same report with the series of its run.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from nndiag.findings import Reading
from nndiag.page.inline import inline
from nndiag.report import wording
from nndiag.report.figures import Visited, figures
from nndiag.report.inert import plain_name, plain_part, spans
from nndiag.report.report import Report


def render_html(report: Report, visits: Sequence[Visited] = (), name: str = "") -> str:
    """A page without requests; its policy allows its own modules and style sheets and nothing else.

    Args:
        report: What to show.
        visits: Of its run, in order of steps; without them the page has the newest readings alone.
        name: Of the run.
    """
    style = _style()
    page = inline(figures(report, visits, name), style)
    texts = {field.name: Markup(getattr(page, field.name)) for field in fields(page)}
    template = _environment().get_template("page.html.j2")
    return template.render(_content(report), page=texts, style=Markup(style))


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
