"""Charts for TensorBoard's Custom Scalars tab, for those who ask for them.

TensorBoard keeps one layout a run, the newest, and it changes the tab for everybody: nndiag never writes one itself.
"""

from __future__ import annotations

import re

from nndiag.findings import Severity
from nndiag.measures import MEASURES, RULES
from nndiag.report.scales import JUDGED
from nndiag.sinks.tab import stable_tag

Layout = dict[str, dict[str, tuple[str, list[str]]]]


def custom_scalars_layout() -> Layout:
    """One chart for each reading that a rule judges, and one that counts findings.

    Hand it to the writer of the run, with your own charts beside it where there are any:
    ``writer.add_custom_scalars({**custom_scalars_layout(), **mine})``.
    """
    findings = [f"nndiag_summary/findings_{severity}" for severity in Severity]
    layout: Layout = {"nndiag": {"findings": _chart(*findings)}}
    read = {f"{rule.measure}/{rule.reads}" for rule in RULES.values() if rule.measure in MEASURES}
    for reading in sorted(JUDGED | read):
        measure, _, name = reading.partition("/")
        charts = layout.setdefault(f"nndiag: {measure.replace('_', ' ')}", {})
        charts[name.replace("_", " ")] = _chart(stable_tag(f"nndiag_summary/{reading}"))
    return layout


def _chart(*tags: str) -> tuple[str, list[str]]:
    """TensorBoard takes tags for regular expressions that may end anywhere."""
    return "Multiline", [f"^{re.escape(tag)}$" for tag in tags]
