"""What a CPU needs to run the programs at its own speed: memory that is kept, compiler options, parallel streams."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import jax

# XLA:CPU's own choice hands reductions to a library that is several times slower than compiled code on the
# short rows of norms and softmax (a fifth of a tick); products stay with the library.
_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
_KEEP = (  # glibc's mallopt: parameter, value
    (-8, 1),  # M_ARENA_MAX: one arena, so that threads share what is freed
    (-4, 0),  # M_MMAP_MAX: large blocks come from the heap, not from fresh pages of their own
    (-1, 2**31 - 1),  # M_TRIM_THRESHOLD: freed memory is not handed back
    (-2, 64 * 2**20),  # M_TOP_PAD: the heap grows by 64 MiB at a time
)


@functools.cache
def keep_freed_memory() -> bool:
    """Lets glibc keep the memory that programs free; returns whether it does.

    XLA allocates a program's temporaries anew at every call. Blocks above 32 MB come from fresh pages,
    and each page costs a fault: a third of the time of a tick. It acts on the whole process, once, on
    Linux with glibc where the programs run on a CPU. `SELFADAPT_KEEP_FREED_MEMORY=0` leaves the allocator
    alone, for a process whose memory must shrink again.
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


@functools.cache
def compiler_options() -> dict[str, str]:
    """Returns options for `jax.jit`'s `compile`: none on accelerators or where this XLA does not know them."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options=_OPTIONS)
    except jax.errors.JaxRuntimeError:
        return {}
    return _OPTIONS


class Program:
    """A jitted function that learns its compiler options at its first use, when the backend is known."""

    def __init__(self, function: Callable, **options: Any):
        """Takes the function and what `jax.jit` takes."""
        functools.update_wrapper(self, function)
        self._function, self._options = function, options

    @functools.cached_property
    def _jitted(self) -> Any:
        return jax.jit(self._function, compiler_options=compiler_options(), **self._options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the function."""
        return self._jitted(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Forwards `lower` and the rest."""
        return getattr(self._jitted, name)


def parallel_streams() -> int:
    """Returns how many programs to run side by side.

    Two on a CPU of several cores, where one program alone leaves cores idle in its small operations. An
    accelerator runs one program at a time, and programs that span devices must not wait for each other.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 2 if jax.default_backend() == "cpu" and jax.device_count() == 1 and cores > 1 else 1
