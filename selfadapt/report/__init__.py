"""The report: one self-contained HTML file about a finished run, and its ladder as a picture."""

from selfadapt.report.page import write_report
from selfadapt.report.plots import ladder_svg

__all__ = ["ladder_svg", "write_report"]
