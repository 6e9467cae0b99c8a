"""What XLA has to know of a GPU in order to compile for one that is not attached."""

from __future__ import annotations

import dataclasses

from selfadapt.parallel import chips


@dataclasses.dataclass(frozen=True)
class _Architecture:
    """The hardware of a GPU, where architectures differ.

    Attributes:
      capability: CUDA's compute capability, major and minor.
      multiprocessors: number of streaming multiprocessors.
      float32_units: FP32 cores of each.
      clock: highest clock rate, GHz.
      shared: shared memory of a multiprocessor, KiB; a block can have all but one of them.
      cache: L2 cache, MiB.
    """

    capability: tuple[int, int]
    multiprocessors: int
    float32_units: int
    clock: float
    shared: int
    cache: int


# NVIDIA's data sheets of the SXM modules, and "Technical Specifications per Compute Capability" of its CUDA
# Programming Guide.
_AMPERE = _Architecture((8, 0), 108, 64, 1.41, shared=164, cache=40)
_HOPPER = _Architecture((9, 0), 132, 128, 1.98, shared=228, cache=50)
_ARCHITECTURES = {"a100": _AMPERE, "a100-80gb": _AMPERE, "h100": _HOPPER, "h200": _HOPPER}


def target_config(kind: str) -> str:
    """Returns XLA's description of a GPU (`GpuTargetConfigProto`, in text format).

    Args:
      kind: a name of `chips.GPUS`.
    """
    gpu, chip = _ARCHITECTURES[kind], chips.GPUS[kind]
    major, minor = gpu.capability
    device = {
        "core_count": gpu.multiprocessors,
        "fpus_per_core": gpu.float32_units,
        "clock_rate_ghz": gpu.clock,
        "shared_memory_per_core": gpu.shared * 1024,
        "shared_memory_per_block": 48 * 1024,  # without asking for more
        "shared_memory_per_block_optin": (gpu.shared - 1) * 1024,
        "l2_cache_size": gpu.cache * 2**20,
        "memory_bandwidth": int(chip.bandwidth),
        "device_memory_size": int(chip.memory),
        # Equal on both architectures.
        "threads_per_warp": 32,
        "threads_per_block_limit": 1024,
        "threads_per_core_limit": 2048,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
    }
    lines = [f"  {name}: {value}" for name, value in device.items()]
    return "\n".join(
        [
            "gpu_device_info {",
            f"  cuda_compute_capability {{ major: {major} minor: {minor} }}",
            *lines,
            "}",
            'platform_name: "CUDA"',
            "runtime_version { major: 12 minor: 8 }",
            "dnn_version_info { major: 9 minor: 8 }",
            f'device_description_str: "NVIDIA {chip.name}"',
        ]
    )
