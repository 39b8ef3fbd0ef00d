"""The report as one HTML page that needs nothing else."""

from __future__ import annotations

import functools
from collections import defaultdict
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from nndiag.findings import Reading
from nndiag.report.report import Report
from nndiag.report.wording import MARKS, evidence_value, headline, layer_names, plain_text, since, summary


@functools.cache
def _environment() -> Environment:
    """Autoescape is on: names and texts are untrusted."""
    environment = Environment(
        loader=PackageLoader("nndiag.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {
        "plain": plain_text,
        "value": evidence_value,
        "where": layer_names,
        "since": since,
    }
    environment.filters.update(filters)
    return environment


def render_html(report: Report) -> str:
    """The page as text: no scripts, no requests."""
    readings: dict[str, list[Reading]] = defaultdict(list)
    for reading in report.readings:
        readings[f"{reading.measure} / {reading.name}"].append(reading)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            active=[finding for finding in report.findings if finding.is_active],
            resolved=[finding for finding in report.findings if not finding.is_active],
            status=report.status,
            headline=headline(report.status, report.findings),
            summary=summary(dict(report.run), len(report.layers)),
            marks=MARKS,
            readings=dict(sorted(readings.items())),
            coverage=report.coverage,
            counts=report.coverage.counts(),
            run=dict(report.run),
        )
    )
