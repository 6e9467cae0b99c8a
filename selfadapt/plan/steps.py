"""What a plan consists of: programs with abstract arguments, and the machine that they are compiled for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from selfadapt.engine import memory
from selfadapt.parallel import sharding


@dataclasses.dataclass(frozen=True)
class Step:
    """One program.

    Attributes:
      name: what it does and its shape.
      phase: the phase of a round that it belongs to.
      runs: how often a round runs it.
      tokens: tokens that one run processes, without padding.
      padded: tokens with padding.
      inputs: its large arguments by kind, as abstract arrays.
      held: bytes per device, by kind, of what stays in memory besides its arguments.
      lower: lowers it; `None` where nothing is compiled and only the memory counts.
      trips: the trip count of its loop where the program does not determine it.
    """

    name: str
    phase: str
    runs: float
    tokens: float
    padded: float
    inputs: dict[str, Any]
    held: dict[str, int]
    lower: Callable[[], Any] | None
    trips: int = 1


@dataclasses.dataclass(frozen=True)
class Machine:
    """The devices that programs are compiled for.

    Attributes:
      mesh: the mesh; `None` for one device of this process.
      memory: bytes per device.
      free: what batches are made for instead of the free memory (`config.free_memory_gib`), bytes per device.
    """

    mesh: Any
    memory: float
    free: int | None = None

    @property
    def shards(self) -> int:
        """Data-parallel shards of the mesh."""
        return sharding.num_shards(self.mesh)

    def budget(self, held: int) -> int:
        """Returns the bytes on each device that a batch may take beside `held` ones, as `memory.batch_bytes` would."""
        return max(0, int(memory.SHARE * (self.memory - held if self.free is None else self.free)))

    def array(self, shape: Sequence[int], dtype: Any, axes: Sequence[str | None]) -> jax.ShapeDtypeStruct:
        """Returns an abstract array with the sharding of a real one."""
        return sharding.abstract(self.mesh, shape, dtype, axes)
