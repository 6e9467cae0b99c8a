"""The report: one self-contained HTML file about a finished run, and its plots as pictures."""

from selfadapt.report.evolution import evolution_svg
from selfadapt.report.grids import grid_svg
from selfadapt.report.page import write_report
from selfadapt.report.plots import curve_svg, ladder_svg
from selfadapt.report.remedies import remedies_svg
from selfadapt.report.retention import retention_svg
from selfadapt.report.tree import differences_html, tree_plot, tree_svg

__all__ = [
    "curve_svg",
    "differences_html",
    "evolution_svg",
    "grid_svg",
    "ladder_svg",
    "remedies_svg",
    "retention_svg",
    "tree_plot",
    "tree_svg",
    "write_report",
]
