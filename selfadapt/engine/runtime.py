"""Settings for speed on a CPU: compiler options, and programs side by side."""

from __future__ import annotations

import functools
import os
from typing import Any

import jax

from selfadapt.parallel import sharding

# By default XLA:CPU calls a library for reductions, which is several times slower than compiled code on the short rows
# of norms and softmax. With this option only products use the library.
_OPTIONS: dict[str, str | bool] = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


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
