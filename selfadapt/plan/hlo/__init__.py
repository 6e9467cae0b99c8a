"""Reads the text of compiled XLA programs."""

from selfadapt.plan.hlo.collective import Collective, device_groups
from selfadapt.plan.hlo.instruction import read_instruction
from selfadapt.plan.hlo.program import Program

__all__ = ["Collective", "Program", "device_groups", "read_instruction"]
