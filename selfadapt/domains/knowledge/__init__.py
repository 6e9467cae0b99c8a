"""Knowledge incorporation (SEAL, arXiv 2506.10943, section 4.1)."""

from selfadapt.domains.knowledge.domain import make

__all__ = ["make"]
