"""A self-contained `report.html` of a run: curves, slice viewer, metrics with protocol, configuration."""

from __future__ import annotations

from .content import CaseResult, Column, MetricRow, MetricTable, Synthesis
from .write import write_report

__all__ = ["CaseResult", "Column", "MetricRow", "MetricTable", "Synthesis", "write_report"]
