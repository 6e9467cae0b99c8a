"""Reads the text of compiled XLA programs."""

from selfadapt.plan.hlo.collective import PERMUTE, Collective, device_groups
from selfadapt.plan.hlo.instruction import read_instruction
from selfadapt.plan.hlo.program import Operation, Program
from selfadapt.plan.hlo.schedule import exposed_seconds

__all__ = ["PERMUTE", "Collective", "Operation", "Program", "device_groups", "exposed_seconds", "read_instruction"]
