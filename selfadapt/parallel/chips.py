"""Published rates of accelerators: matrix products, memory and links, for rooflines and MFU.

Rates are for one JAX device, dense (without structured sparsity), in FLOP/s and bytes/s. Links are counted in
one direction; vendors often publish the sum of both.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

GPU_MEMORY_SHARE = 0.92  # of a GPU that JAX takes for its arrays in the commands; by default it takes 0.75


def take_gpu_memory() -> None:
    """Makes JAX take `GPU_MEMORY_SHARE` of each GPU; call it before JAX finds its devices.

    The environment variable that JAX reads for this, where it is set, is left as it is.
    """
    if "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:  # its former name, which may not be set beside the other
        os.environ.setdefault("XLA_CLIENT_MEM_FRACTION", str(GPU_MEMORY_SHARE))


@dataclasses.dataclass(frozen=True)
class Chip:
    """One type of device.

    Attributes:
      name: its name in `selfadapt plan` and in reports.
      bfloat16: peak rate of matrix products of bfloat16, FLOP/s.
      float32: the same of float32 arrays at XLA's default precision: one pass of bfloat16 on a TPU, TF32 on an
        NVIDIA GPU.
      memory: memory available to programs, bytes; of a GPU the share that the commands take.
      bandwidth: memory bandwidth, bytes/s.
      links: sum of its links to other chips, bytes/s in one direction.
      torus: dimensions of the torus that the links form; 0 where a switch connects all chips of a host.
      ring: a dimension of the torus is a closed ring if its size is a multiple of this.
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
    return Chip(name, bfloat16 * 1e12, tf32 * 1e12, GPU_MEMORY_SHARE * memory * 1e9, bandwidth * 1e9, links * 1e9)


# Google Cloud's page on each TPU (cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e; the links of v4 are from
# arXiv 2304.01433): TFLOP/s of bfloat16, GB/s of memory, GB/s of links, half of the bidirectional rate on the page. A
# slice of v4 or v5p consists of connected cubes of 4 x 4 x 4 chips; on v5e and v6e only a side of 16 is a ring. The
# memory is what the TPU compiler (libtpu 0.0.42) leaves to a program of the physical 32, 16, 95 and 32 GiB.
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

# JAX's name of a device (`device.device_kind`) in lower case -> its chip.
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
    """Returns the chip of a JAX device, or `None` for a CPU and for a chip that is not listed here."""
    return _KINDS.get(str(device.device_kind).lower())
