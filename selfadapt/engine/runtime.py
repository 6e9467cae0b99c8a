"""Settings for speed on a CPU: compiler options, and programs side by side."""

from __future__ import annotations

import concurrent.futures
import functools
import os
from collections.abc import Callable, Sequence
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


class jit:  # noqa: N801  used like `jax.jit`
    """`jax.jit` with `compiler_options` for the platform that a program is traced for.

    Called in another program it is a part of that one, which has the options.
    """

    def __init__(self, function: Callable[..., Any], **arguments: Any):
        self._function, self._arguments = function, arguments
        self._programs: dict[str | None, Any] = {}
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the program."""
        inside = isinstance(jax.numpy.zeros(()), jax.core.Tracer)  # a number, unless a program is being traced
        return self.on(None if inside else sharding.current_platform())(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        """Traces the program; arrays may be `jax.ShapeDtypeStruct`s."""
        return self.on(sharding.current_platform()).lower(*args, **kwargs)

    def on(self, platform: str | None) -> Any:
        """Returns the result of `jax.jit` for a platform; `None`: inside another program."""
        if platform not in self._programs:
            options = {} if platform is None else compiler_options(platform)
            program = jax.jit(self._function, compiler_options=options, **self._arguments)
            self._programs.setdefault(platform, program)  # threads share one
        return self._programs[platform]


def cores() -> list[int]:
    """Returns the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def parallel_streams(mesh: Any) -> int:
    """Returns how many programs to run side by side for a model on a mesh (`None`: on one device).

    Two on a CPU of several cores, where one program alone leaves cores idle in its small operations. An
    accelerator runs one program at a time, and programs that span devices must not wait for each other.
    """
    return 2 if sharding.platform(mesh) == "cpu" and mesh is None and len(cores()) > 1 else 1


def side_by_side(jobs: Sequence[Callable[[], Any]], most: int, stop: Callable[[], Any]) -> list[Any]:
    """Runs jobs, up to `most` of them at a time, each on a thread; returns their results in order.

    After an error or Ctrl-C it calls `stop`, which should make the running jobs return early, and begins no others.
    """
    if min(len(jobs), most) == 1:
        return [job() for job in jobs]
    with concurrent.futures.ThreadPoolExecutor(most) as pool:
        running = [pool.submit(job) for job in jobs]
        try:
            for job in concurrent.futures.as_completed(running):
                job.result()
        except BaseException:
            stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [job.result() for job in running]
