"""The report: what was found, and its faces."""

from nndiag.report.inert import plain_text
from nndiag.report.report import SCHEMA_VERSION, Report

__all__ = ["SCHEMA_VERSION", "Report", "plain_text"]
