"""Sampling from many adapters at once."""

from selfadapt.engine.generate.sampling import Generation, generate

__all__ = ["Generation", "generate"]
