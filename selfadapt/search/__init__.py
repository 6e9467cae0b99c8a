"""Search over contexts (LSE, arXiv 2603.18620): a tree that grows by edits, and the choice of its best context."""

from selfadapt.search.growth import Child, Found, grow
from selfadapt.search.holdout import Chosen, CrossValidation, best_of, choose_and_report, cross_validate
from selfadapt.search.tree import RULES, Node, Tree

__all__ = [
    "RULES",
    "Child",
    "Chosen",
    "CrossValidation",
    "Found",
    "Node",
    "Tree",
    "best_of",
    "choose_and_report",
    "cross_validate",
    "grow",
]
