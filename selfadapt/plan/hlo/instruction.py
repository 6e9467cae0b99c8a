"""One instruction of a compiled XLA program, read from its line of text."""

from __future__ import annotations

import dataclasses
import functools
import math
import re

BYTES = {"pred": 1, "token": 0, "bf16": 2, "c64": 8, "c128": 16}  # others have their bits in the name
_COMMENT = re.compile(r"/\*.*?\*/")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|\w+_computations?)=(%?[\w.\-]+|\{[^}]*\})")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of an instruction's result.

    Attributes:
      dtype: its element type as XLA writes it.
      dims: its sizes on this device.
      near: whether it is in memory next to the compute units, such as a TPU's VMEM, instead of main memory.
    """

    dtype: str
    dims: tuple[int, ...]
    near: bool = False

    @property
    def bytes(self) -> float:
        """Its size in bytes, in any memory."""
        bits = re.search(r"\d+", self.dtype)
        return math.prod(self.dims) * BYTES.get(self.dtype, int(bits[0]) / 8 if bits else 0)

    @property
    def far_bytes(self) -> float:
        """Its size in bytes if it is in main memory, else 0."""
        return 0 if self.near else self.bytes


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction: its result's arrays, its operands by name, and the rest of its line."""

    name: str
    arrays: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    rest: str
    root: bool

    def attribute(self, pattern: str) -> str | None:
        """Returns the first group of a pattern in its attributes, if it is there."""
        found = re.search(pattern, self.rest)
        return found[1] if found else None

    @functools.cached_property
    def called(self) -> tuple[str, ...]:
        """The computations that it calls."""
        return tuple(name for match in _CALLED.finditer(self.rest) for name in re.findall(r"[\w.\-]+", match[1]))


def read_instruction(line: str) -> Instruction | None:
    """Reads one line, `[ROOT ]%name = type opcode(operands), attributes`; `None` if it is none."""
    name, _, right = _COMMENT.sub("", line).strip().partition(" = ")
    root = name.startswith("ROOT ")
    if right.startswith("("):
        end = _closing(right, 0) + 1
    else:
        end = right.find(" ")
    opening = right.find("(", end)
    if end <= 0 or opening < 0:
        return None
    kind, opcode = right[:end], right[end:opening].strip()
    closing = _closing(right, opening)
    inside = right[opening + 1 : closing]
    arrays = tuple(
        Array(dtype, tuple(map(int, filter(None, dims.split(",")))), bool(re.search(r"S\([1-9]", layout)))
        for dtype, dims, layout in _ARRAY.findall(kind)
    )
    # The number of a parameter and the value of a constant stand where operands do.
    literal = opcode in ("parameter", "constant")
    operands = () if literal else tuple(re.findall(r"%([\w.\-]+)", inside))
    rest = right[opening + 1 :] if literal else right[closing + 1 :]
    return Instruction(name.removeprefix("ROOT ").lstrip("%"), arrays, opcode, operands, rest, root)


def _closing(text: str, opening: int) -> int:
    depth = 0
    for match in re.compile(r"[()]").finditer(text, opening):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    return len(text)
