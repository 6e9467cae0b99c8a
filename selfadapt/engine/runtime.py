"""Settings for speed on a CPU: memory that the allocator keeps, compiler options, and programs side by side."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
from typing import Any

import jax

from selfadapt.parallel import sharding

# By default XLA:CPU calls a library for reductions, which is several times slower than compiled code on the short rows
# of norms and softmax. With this option only products use the library.
_OPTIONS: dict[str, str | bool] = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
_KEEP = (  # glibc's mallopt: parameter, value
    (-8, 1),  # M_ARENA_MAX: one arena, so that threads share what is freed
    (-4, 0),  # M_MMAP_MAX: large blocks come from the heap, not from fresh pages
    (-1, 2**31 - 1),  # M_TRIM_THRESHOLD: freed memory is not returned to the system
    (-2, 64 * 2**20),  # M_TOP_PAD: the heap grows by 64 MiB at a time
)


@functools.cache
def keep_freed_memory() -> bool:
    """Makes glibc keep the memory that programs free; returns whether it does.

    XLA allocates a program's temporaries again at every call. Blocks above 32 MB come from fresh pages,
    and each page costs a page fault: 15 to 20% of the time of `adapt` on two cores. The setting applies to the whole
    process, on Linux with glibc where the programs run on a CPU. `SELFADAPT_KEEP_FREED_MEMORY=0` leaves the allocator
    unchanged, for a process whose memory must shrink again.
    """
    if os.environ.get("SELFADAPT_KEEP_FREED_MEMORY") == "0" or jax.default_backend() != "cpu":
        return False
    if not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  musl has a mallopt that does nothing
        return all(libc.mallopt(parameter, value) for parameter, value in _KEEP)
    return False


def return_freed_memory() -> None:
    """Returns the memory kept by `keep_freed_memory` to the system, at the end of many program calls."""
    if keep_freed_memory():
        ctypes.CDLL(None).malloc_trim(0)


@functools.cache
def compiler_options(kind: str) -> dict[str, str | bool]:
    """Returns options for `jax.jit` on a platform: none on accelerators, or where this XLA does not know them."""
    if kind != "cpu":
        return {}
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options=_OPTIONS)
    except jax.errors.JaxRuntimeError:
        return {}
    return _OPTIONS


def cores() -> list[int]:
    """Returns the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def parallel_streams(mesh: Any) -> int:
    """Returns how many programs to run side by side for a model on a mesh (`None`: on one device).

    Two on a CPU of several cores, where one program alone leaves cores idle in its small operations. An
    accelerator runs one program at a time, and programs that span devices must not wait for each other.
    """
    return 2 if sharding.platform(mesh) == "cpu" and mesh is None and len(cores()) > 1 else 1
