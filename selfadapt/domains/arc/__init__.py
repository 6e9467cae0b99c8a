"""Few-shot ARC (SEAL, arXiv 2506.10943, section 4.2): directives for test-time training on a task's demonstrations."""

from selfadapt.domains.arc.augment import Transformation, augmentations
from selfadapt.domains.arc.directive import Directive, parse_directive, render_directive
from selfadapt.domains.arc.domain import Arc, make
from selfadapt.domains.arc.format import Format, JsonFormat
from selfadapt.domains.arc.grids import Grid, check_grid, parse_grid, render
from selfadapt.domains.arc.sources import ArcFiles, TaskSource
from selfadapt.domains.arc.submission import check_submission, make_submission, score
from selfadapt.domains.arc.tasks import ArcTask, Pair, load_tasks
from selfadapt.domains.arc.training import Example, check_steps, leave_out, training_tasks
from selfadapt.domains.arc.vote import View, solved, views, vote

__all__ = [
    "Arc",
    "ArcFiles",
    "ArcTask",
    "Directive",
    "Example",
    "Format",
    "Grid",
    "JsonFormat",
    "Pair",
    "TaskSource",
    "Transformation",
    "View",
    "augmentations",
    "check_grid",
    "check_steps",
    "check_submission",
    "leave_out",
    "load_tasks",
    "make",
    "make_submission",
    "parse_directive",
    "parse_grid",
    "render",
    "render_directive",
    "score",
    "solved",
    "training_tasks",
    "views",
    "vote",
]
