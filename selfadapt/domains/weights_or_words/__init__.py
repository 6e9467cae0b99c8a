"""Edits that choose how they are applied: in the prompt (words), by training an adapter (weights), or both."""

from selfadapt.domains.weights_or_words.domain import CaseSource, WeightsOrWords, make
from selfadapt.domains.weights_or_words.sections import BOTH, FREE, SECTIONS, WEIGHTS, WORDS, Sections, parse_sections

__all__ = [
    "BOTH",
    "FREE",
    "SECTIONS",
    "WEIGHTS",
    "WORDS",
    "CaseSource",
    "Sections",
    "WeightsOrWords",
    "make",
    "parse_sections",
]
