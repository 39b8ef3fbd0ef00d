"""The report: what was found, and its faces."""

from nndiag.report.report import SCHEMA_VERSION, Report
from nndiag.report.wording import plain_text

__all__ = ["SCHEMA_VERSION", "Report", "plain_text"]
