"""Report: findings, readings and coverage of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nndiag.errors import CheckpointError
from nndiag.findings import Coverage, Finding, Reading, Scalar, plain, worst
from nndiag.report.checks import checked, facts
from nndiag.report.inert import plain_text
from nndiag.report.wording import symptoms

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

SCHEMA_VERSION = 1

_DEEPEST = 50
"""Symptoms of symptoms that are read back; there are fewer rules that explain each other."""


@dataclass(frozen=True)
class Report:
    """What nndiag says about a run or a checkpoint.

    Attributes:
        findings: The worst first, root causes before others; consequences are in a finding's ``related``.
        readings: The newest reading of every measure and layer.
        coverage: What was measured, what not, and why.
        run: Facts: versions, steps, visits, share of time spent.
    """

    findings: tuple[Finding, ...] = ()
    readings: tuple[Reading, ...] = ()
    coverage: Coverage = field(default_factory=Coverage)
    run: Mapping[str, Scalar] = field(default_factory=dict)

    @classmethod
    def empty(cls) -> Report:
        """The report before anything was seen."""
        return cls()

    @property
    def status(self) -> str:
        """The word "ok" unless a finding at warning or above is active, then the worst severity."""
        severity = worst(self.findings)
        return "ok" if severity is None or severity.rank == 0 else str(severity)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of all layers that coverage speaks about."""
        return tuple(dict.fromkeys(entry.layer for entry in self.coverage if entry.layer is not None))

    def to_dict(self) -> dict[str, Any]:
        """Plain types, with ``schema_version``."""
        return {
            "schema_version": SCHEMA_VERSION,
            "status": self.status,
            "findings": [finding.to_dict() for finding in self.findings],
            "readings": [reading.to_dict() for reading in self.readings],
            "coverage": self.coverage.to_dict(),
            "run": plain(dict(self.run)),
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """The report as JSON; also written to ``path`` when given."""
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> Report:
        """Reads what ``to_json`` wrote: the text itself, or a path to it.

        Raises:
            CheckpointError: it is not a report, or was written by a newer nndiag.
        """
        is_text = isinstance(source, str) and source.lstrip().startswith("{")
        name = "the text" if is_text else plain_text(source, 500)
        try:
            record = json.loads(str(source) if is_text else Path(source).read_text(encoding="utf-8"))
            version = record["schema_version"]
            if version > SCHEMA_VERSION:
                raise CheckpointError(f"{name} was written by a newer nndiag: upgrade nndiag to read it.")
            if version != SCHEMA_VERSION:
                raise ValueError(f"schema_version is {version}")
            return cls._from_dict(record)
        except CheckpointError:
            raise
        except OSError as error:
            raise CheckpointError(f"{name} cannot be read: {error.strerror}.") from error
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            reason = plain_text(f"{type(error).__name__}: {error}", 300)
            raise CheckpointError(f"{name} is not an nndiag report: {reason}") from error

    @classmethod
    def _from_dict(cls, record: Mapping[str, Any]) -> Report:
        findings = tuple(Finding.from_dict(row) for row in record["findings"])
        if any(depth >= _DEEPEST for finding in findings for depth, _ in symptoms(finding)):
            raise ValueError("its findings are nested too deeply")
        readings = tuple(Reading.from_dict(row) for row in record["readings"])
        return checked(cls(findings, readings, Coverage.from_dict(record["coverage"]), facts(record["run"])))

    def to_markdown(self) -> str:
        """The report as markdown: what TensorBoard shows under Text."""
        from nndiag.report.markdown import render_markdown

        return render_markdown(self)

    def to_html(self, path: str | Path | None = None) -> str:
        """The report as one self-contained HTML page; also written to ``path`` when given."""
        from nndiag.report.html import render_html

        text = render_html(self)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def _repr_html_(self) -> str:
        from nndiag.report.html import render_fragment

        return render_fragment(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from nndiag.report.text import render_rich

        yield render_rich(self)

    def __str__(self) -> str:
        from nndiag.report.text import render_text

        return render_text(self)
