"""Words and marks shared by every face of a report; names from a model are untrusted."""

from __future__ import annotations

import re
import unicodedata

from nndiag.findings import Finding, Scalar, Severity

MARKS = {Severity.CRITICAL: "■", Severity.WARNING: "▲", Severity.INFO: "●"}
"""A shape for each severity: color alone is not enough."""

_LIMIT = 200


def plain_text(text: object, limit: int = 4000) -> str:
    """Text that no terminal, browser or spreadsheet acts upon: one line, no control or direction marks."""
    kept = "".join(c if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co") else " " for c in str(text))
    kept = re.sub(r"\s+", " ", kept).strip()
    return kept if len(kept) <= limit else kept[: limit - 1] + "…"


def layer_names(finding: Finding, most: int = 4) -> str:
    """The layers of a finding in a few words."""
    names = [plain_text(name, _LIMIT) for name in finding.layers[:most]]
    rest = len(finding.layers) - len(names)
    return ", ".join(names) + (f" and {rest} more" if rest > 0 else "") if names else "the run"


def since(finding: Finding) -> str:
    """When it began, as exactly as visits allow."""
    begin = f"since step {finding.first_step}"
    if finding.last_clean_step is not None:
        begin += f" (clean at {finding.last_clean_step})"
    if finding.is_active:
        return begin
    return f"from step {finding.first_step} to {finding.last_step}, resolved"


def evidence_value(value: Scalar) -> str:
    """A number with as many digits as it carries."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return plain_text(value, _LIMIT)


def headline(status: str, findings: tuple[Finding, ...]) -> str:
    """One line on the whole run."""
    active = [f for f in findings if f.is_active]
    counts = [(s, sum(f.severity is s for f in active)) for s in reversed(Severity)]
    words = ", ".join(f"{n} {s}" for s, n in counts if n)
    if status == "ok":
        return "no warnings" + (f" ({words})" if words else "")
    return words


def summary(run: object, layers: int) -> str:
    """What the statement rests on."""
    facts = run if isinstance(run, dict) else {}
    parts = [f"{layers} layers"]
    if "visits" in facts:
        parts.append(f"{facts['visits']} visits")
    if isinstance(facts.get("last_step"), int) and facts["last_step"] >= 0:
        parts.append(f"{facts['last_step'] + 1} steps")
    if facts.get("probe"):
        parts.append(f"probe: {plain_text(facts['probe'], 80)}")
    if isinstance(facts.get("overhead"), float):
        parts.append(f"overhead {facts['overhead']:.1%} after start-up")
    return ", ".join(parts)
