"""Training of many LoRA adapters at once."""

from selfadapt.engine.adapt.train import adapt, initial_adapters

__all__ = ["adapt", "initial_adapters"]
