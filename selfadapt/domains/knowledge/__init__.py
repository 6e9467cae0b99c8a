"""Knowledge incorporation (SEAL, arXiv 2506.10943, section 4.1)."""

from selfadapt.domains.knowledge.domain import Knowledge, make
from selfadapt.domains.knowledge.sources import Passages, TaskSource

__all__ = ["Knowledge", "Passages", "TaskSource", "make"]
