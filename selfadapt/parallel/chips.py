"""What the makers publish about their chips: matrix rate, memory, links. For rooflines and shares of a peak.

Rates are for one JAX device, dense (without structured sparsity), in FLOP/s and bytes/s. Links are counted in
one direction; makers tend to print both together.
"""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of device.

    Attributes:
      name: what `selfadapt plan` and reports call it.
      bfloat16: peak rate of matrix products of bfloat16, FLOP/s.
      float32: of float32 arrays at the precision that XLA gives them by default: one pass of bfloat16 on a
        TPU, TF32 on an NVIDIA GPU.
      memory: its memory that programs can use, bytes.
      bandwidth: of its memory, bytes/s.
      links: all its links to other chips together, bytes/s in one direction.
      torus: dimensions of the links' torus; 0 where a switch joins all chips (of a host).
      ring: along a dimension of the torus, the sizes whose ends are joined are the multiples of this.
    """

    name: str
    bfloat16: float
    float32: float
    memory: float
    bandwidth: float
    links: float
    torus: int = 0
    ring: int = 0

    def peak_flops(self, dtype: Any) -> float:
        """Returns the peak rate of matrix products of a dtype ("bfloat16", "float32"), FLOP/s."""
        return self.float32 if str(dtype) == "float32" else self.bfloat16


def _tpu(name: str, tflops: float, memory: float, bandwidth: float, links: float, torus: int, ring: int) -> Chip:
    return Chip(name, tflops * 1e12, tflops * 1e12, memory * 2**30, bandwidth * 1e9, links * 1e9, torus, ring)


def _gpu(name: str, bfloat16: float, tf32: float, memory: float, bandwidth: float, links: float) -> Chip:
    return Chip(name, bfloat16 * 1e12, tf32 * 1e12, memory * 1e9, bandwidth * 1e9, links * 1e9)


# Google Cloud's page on each TPU (cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e; the links of v4 are from
# arXiv 2304.01433): TFLOP/s of bfloat16, GB/s of memory, GB/s of links, half of the bidirectional rate on the page. A
# slice of v4 or v5p is made of cubes of 4 chips a side whose faces are joined; on v5e and v6e only a side of 16 is a
# ring. The memory is what the TPU compiler (libtpu 0.0.42) leaves a program of the 32, 16, 95 and 32 GiB there are.
TPUS = {
    "v4": _tpu("TPU v4", 275, 30.75, 1200, 300, torus=3, ring=4),
    "v5e": _tpu("TPU v5e", 197, 15.75, 819, 200, torus=2, ring=16),
    "v5p": _tpu("TPU v5p", 459, 95.74, 2765, 600, torus=3, ring=4),
    "v6e": _tpu("TPU v6e", 918, 31.25, 1640, 400, torus=2, ring=16),
}

# NVIDIA's data sheets of the SXM modules, without sparsity: TFLOP/s of bfloat16 and TF32, GB and GB/s of memory, GB/s
# of NVLink in one direction.
GPUS = {
    "a100": _gpu("A100 40 GB", 312, 156, 40, 1555, 300),
    "a100-80gb": _gpu("A100 80 GB", 312, 156, 80, 2039, 300),
    "h100": _gpu("H100", 989, 494, 80, 3350, 450),
    "h200": _gpu("H200", 989, 494, 141, 4800, 450),
}

# What JAX calls a device (`device.device_kind`), in lower case -> its chip.
_KINDS = {
    "tpu v4": TPUS["v4"],
    "tpu v5 lite": TPUS["v5e"],
    "tpu v5e": TPUS["v5e"],
    "tpu v5": TPUS["v5p"],
    "tpu v5p": TPUS["v5p"],
    "tpu v6 lite": TPUS["v6e"],
    "tpu v6e": TPUS["v6e"],
    "nvidia a100-sxm4-40gb": GPUS["a100"],
    "nvidia a100-sxm4-80gb": GPUS["a100-80gb"],
    "nvidia h100 80gb hbm3": GPUS["h100"],
    "nvidia h200": GPUS["h200"],
}


def of(device: Any) -> Chip | None:
    """Returns the chip of a JAX device; `None` for a CPU, and for a chip whose rates are not listed here."""
    return _KINDS.get(str(device.device_kind).lower())
