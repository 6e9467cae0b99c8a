"""Continued pretraining on edits (SEAL, arXiv 2506.10943, section 4.1): many passages learned in one update."""

from selfadapt.protocols.pretraining.protocol import Pretraining, make
from selfadapt.protocols.pretraining.subsets import Subset, subsets
from selfadapt.protocols.pretraining.updates import combined

__all__ = ["Pretraining", "Subset", "combined", "make", "subsets"]
