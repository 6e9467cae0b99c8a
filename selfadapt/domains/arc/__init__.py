"""Few-shot ARC (SEAL, arXiv 2506.10943, section 4.2): directives for test-time training on a task's demonstrations."""

from selfadapt.domains.arc.directive import Directive, parse_directive, render_directive
from selfadapt.domains.arc.format import Format, JsonFormat
from selfadapt.domains.arc.grids import Grid, check_grid, parse_grid, render
from selfadapt.domains.arc.tasks import ArcTask, Pair, load_tasks

__all__ = [
    "ArcTask",
    "Directive",
    "Format",
    "Grid",
    "JsonFormat",
    "Pair",
    "check_grid",
    "load_tasks",
    "parse_directive",
    "parse_grid",
    "render",
    "render_directive",
]
