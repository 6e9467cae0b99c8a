"""Evolution at test time (LSE, arXiv 2603.18620): an editor improves instructions, round by round, under a budget."""

from selfadapt.protocols.evolve.protocol import Evolve, make

__all__ = ["Evolve", "make"]
