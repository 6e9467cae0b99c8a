"""glibc's allocator where programs run on a CPU: memory that a program frees is kept for the next program.

XLA allocates a program's temporaries again at every call. Blocks above 32 MB come from fresh pages, and each page costs
a page fault: 15 to 20% of the time of `adapt` on two cores.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
import sys

_ARENA_MAX = -8
_KEEP = (  # glibc's mallopt: parameter, value
    (-4, 0),  # M_MMAP_MAX: large blocks come from the heap, not from fresh pages
    (-1, 2**31 - 1),  # M_TRIM_THRESHOLD: freed memory is not returned to the system
    (-2, 256 * 2**20),  # M_TOP_PAD: the heap grows by 256 MiB at a time, and threads' heaps of 64 MiB stay when empty
)
_kept_by_process = False


def keep_in_process() -> None:
    """Keeps freed memory from now on until the process ends. The commands call it before JAX starts.

    Settings made later do not reach the memory that XLA's threads have by then. Does nothing where JAX may find an
    accelerator.
    """
    global _kept_by_process
    only_cpu = os.environ.get("JAX_PLATFORMS") == "cpu" or not any(
        map(importlib.util.find_spec, ("jax_plugins", "libtpu"))
    )
    _kept_by_process = only_cpu and _set()


@functools.cache
def keep() -> bool:
    """Makes glibc keep the memory that programs free; returns whether it does.

    The setting applies to the whole process, on Linux with glibc where the programs run on a CPU.
    `SELFADAPT_KEEP_FREED_MEMORY=0` leaves the allocator unchanged, for a process whose memory must shrink again.
    """
    import jax  # not at once, since the commands use this module before JAX

    return jax.default_backend() == "cpu" and _set()


def return_kept() -> None:
    """Returns the memory kept by `keep` to the system at the end of many program calls, unless the process keeps it."""
    if keep() and not _kept_by_process:
        ctypes.CDLL(None).malloc_trim(0)


def _set() -> bool:
    if os.environ.get("SELFADAPT_KEEP_FREED_MEMORY") == "0" or not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  musl has a mallopt that does nothing
        # Threads that share an arena wait for each other, and get memory that is in another core's cache: with one
        # arena `adapt` takes half as long again. More than its threads need keep more memory that is not in use.
        arenas = (_ARENA_MAX, 2 * len(os.sched_getaffinity(0)))
        return all(libc.mallopt(parameter, value) for parameter, value in (arenas, *_KEEP))
    return False
