"""Passages with questions, from SEAL's JSON, Hugging Face `datasets` or TFDS, as lists of `Task`."""

from selfadapt.data.records import DataError, hold_out, in_turn, seal_subset, task_id
from selfadapt.data.sources import load_tasks

__all__ = ["DataError", "hold_out", "in_turn", "load_tasks", "seal_subset", "task_id"]
