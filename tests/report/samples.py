"""Reports made by hand, and texts that want to be more than text."""

from __future__ import annotations

import math
import unicodedata
from typing import Any

from nndiag.findings import Coverage, CoverageEntry, Finding, Reading, Severity
from nndiag.report import Report

HOSTILE = {
    "ansi color": "fc\x1b[31mred\x1b[0m",
    "ansi title and link": "\x1b]0;owned\x07\x1b]8;;https://evil.example\x1b\\x\x1b]8;;\x1b\\",
    "c1 controls": "fc\x9b31m\x90q\x9c",
    "script": "<script>alert(1)</script>",
    "image": "<img src=x onerror=alert(1)>",
    "attribute": "\"'><svg onload=alert(1)>",
    "closes its elements": "</code></p></article></main></style><b>",
    "comment": "<!-- <![CDATA[ ]]> -->",
    "entity": "&lt;script&gt;&#60;script&#62;",
    "pipe": "a|b||c | d",
    "backticks": "`` `x` ``` y",
    "link": "[x](javascript:alert(1)) ![y](https://evil.example/y.png)",
    "reference link": "[x]: https://evil.example",
    "address": "https://evil.example www.evil.example a@evil.example <https://evil.example>",
    "emphasis": "**bold** __init__ *x* ~~y~~ _z_ $m$ @someone",
    "newline": "fc\r\n\n# heading\n\n- item\n| a | b |\n|---|---|\n",
    "line separators": "fc\u2028# heading\u2029\x85\x0b\x0cx",
    "right to left": "fc\u202egnp.exe\u2066\u2069\u200f",
    "zero width": "f\u200bc\u200d\ufeff\u2060",
    "null byte": "fc\x00\x00end",
    "lone surrogate": "fc\ud800.\udfff\udc80",
    "private use": "fc\ue000\U000f0000",
    "tags plane": "fc\U000e0041\U000e0042",
    "very long": "x" * 10_000,
    "very long path": "blocks.0." * 1_200,
    "rich markup": "[bold red]x[/] [link=https://evil.example]y[/link] :skull:",
    "template": "{{ 7 * 7 }}{% for x in y %}{# c #}${x}",
    "parent directory": "../../../etc/passwd",
    "format": "%s %n %(name)s {0} {name!r}",
    "wide": "層" * 200,
    "combining": "e" + "\u0301" * 40,
    "spaces": "   \t  ",
    "nothing": "",
}
"""Names of layers that a checkpoint or a record can hold."""


def is_inert(text: str) -> bool:
    """One line without control, format, private or surrogate characters."""
    return not any(unicodedata.category(char) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp") for char in text)


def finding(layers: tuple[str, ...] = ("fc1",), **changes: Any) -> Finding:
    """An active warning."""
    fields: dict[str, Any] = {
        "rule": "ND201",
        "name": "saturated-activation",
        "measure": "saturation",
        "severity": Severity.WARNING,
        "layers": layers,
        "first_step": 3,
        "last_clean_step": 2,
        "last_step": 12_345,
        "status": "active",
        "value": 0.875,
        "threshold": 0.7,
        "message": "88% of the inputs of tanh behind fc1 lie in its tails.",
        "recommendation": "Shrink the weights with `torch.nn.init.xavier_normal_`. It worked when it stays low.",
        "evidence": {"saturated": 0.875, "samples": 512, "activation": "tanh", "trainable": True},
    }
    return Finding(**(fields | changes))


def reading(layer: str | None = "fc1", **changes: Any) -> Reading:
    """The share of saturated entries of one layer."""
    fields: dict[str, Any] = {"measure": "saturation", "name": "saturated", "layer": layer, "step": 12_345}
    fields |= {"value": 0.875, "resolution": 1 / 4096, "n": 512, "detail": {"activation": "tanh"}}
    return Reading(**(fields | changes))


def full_report() -> Report:
    """One of everything: a cause with a symptom that has one too, a note, a resolved finding, odd numbers."""
    deepest = finding(("fc3",), rule="ND601", name="vanishing-gradient", measure="gradient_flow")
    symptom = finding(("fc2",), rule="ND311", name="signal-vanishes", related=(deepest,), evidence={})
    findings = (
        finding(severity=Severity.CRITICAL, related=(symptom,), last_clean_step=None),
        finding(("fc4", "fc5"), rule="ND202", name="dead-units", value=None, threshold=None),
        finding((), rule="ND313", name="init-law", severity=Severity.INFO, first_step=0, last_step=0),
        finding(("fc6",), rule="ND301", name="units-locked", status="resolved"),
    )
    readings = (
        reading(units=(0.0, 0.1, -1.5e-300, math.inf, -math.inf, math.nan, 1 / 3)),
        reading("fc2", value=math.nan, resolution=None, n=None, detail={}),
        reading("fc3", value=-math.inf),
        reading(None, measure="run", name="loss", value=2.302585092994046),
    )
    coverage = Coverage(
        (
            CoverageEntry("fc1", "saturation", "measured"),
            CoverageEntry("fc2", "saturation", "not observed", "not called in the observed steps"),
            CoverageEntry("fc3", "saturation", "not applicable", "not an activation"),
            CoverageEntry(None, "coverage", "measured"),
        ),
        ("Only `rank 0` was watched.",),
    )
    run = {"nndiag": "0.1.0", "visits": 7, "last_step": 12_345, "overhead": 0.0213, "probe": "exact"}
    return Report(findings, readings, coverage, run | {"total_steps": None, "is_complete": True})


def healthy_report() -> Report:
    """Everything was measured and nothing found."""
    coverage = Coverage((CoverageEntry("fc1", "saturation", "measured"),))
    return Report((), (reading(value=0.01),), coverage, {"visits": 3, "last_step": 20})


def hostile_report(text: str) -> Report:
    """The same text wherever a report holds text."""
    facts = {text: text, "key": text}
    symptom = finding((text,), rule=text, name=text, message=text, recommendation=text, evidence=facts)
    return Report(
        (
            finding(
                (text, "fc1"), message=f"At {text} of it.", severity=Severity.CRITICAL, related=(symptom,)
            ),
            finding((text,) * 9, rule=text, name=text, message=text, recommendation=text, evidence=facts),
            finding((text,), severity=Severity.INFO, recommendation=f"Do. It worked when {text}."),
            finding((text,), name=text, message=text, status="resolved"),
        ),
        (reading(text, detail=facts), reading("fc1", measure=text, name=text)),
        Coverage(
            (
                CoverageEntry(text, "saturation", "measured"),
                CoverageEntry(text, text, "not observed", text),
                CoverageEntry("fc9", "saturation", "not applicable", text),
            ),
            (text,),
        ),
        {"probe": text, "visits": 3, "last_step": 12_345} | facts,
    )
