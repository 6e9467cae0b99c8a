"""A persistent cache of compiled programs, and counts of compilations."""

from __future__ import annotations

import collections
import contextlib
import functools
import hashlib
import os
import pathlib
import platform
import threading
import warnings

CACHE_VARIABLE = "SELFADAPT_COMPILATION_CACHE"
_COMPILE, _HIT = "/jax/core/compile/backend_compile_duration", "/jax/compilation_cache/cache_hits"
_lock = threading.Lock()
_totals: collections.Counter = collections.Counter()


def use_cache() -> str | None:
    """Enables JAX's persistent compilation cache for this process.

    The directory is the first of: `SELFADAPT_COMPILATION_CACHE` (0 disables the cache), JAX's own setting
    (`JAX_COMPILATION_CACHE_DIR`), and `selfadapt/compiled-...` in the user's cache directory, separate for each kind
    of CPU, since compiled CPU programs use its instruction set. The cache grows without limit unless
    `JAX_COMPILATION_CACHE_MAX_SIZE` (bytes) is set; deleting the directory is always safe.

    Returns:
      The directory, or `None` if there is no cache: it is disabled, or the directory is not writable (with a warning).
    """
    import jax

    wish = os.environ.get(CACHE_VARIABLE, "")
    if wish == "0":
        jax.config.update("jax_compilation_cache_dir", None)
        return None
    directory = wish or jax.config.jax_compilation_cache_dir or str(_default_directory())
    if "://" not in directory and not _writable(pathlib.Path(directory)):
        warnings.warn(f"no compilation cache: {directory} cannot be written", stacklevel=2)
        directory = None
    jax.config.update("jax_compilation_cache_dir", directory)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # JAX stores only programs that took at least a second; the many small ones add up as well.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return directory


def counts() -> collections.Counter:
    """Returns counts since the first call in this process.

    Returns:
      `compiled`: programs compiled; `cache_hits`: programs read from the cache instead; `compile_seconds`: seconds
      of compiling and of reading from the cache, summed over threads.
    """
    _listen()
    with _lock:
        done = collections.Counter(_totals)
    requests = done.pop("requests", 0)
    hits, seconds = done["cache_hits"], done["compile_seconds"]
    return collections.Counter(compiled=requests - hits, cache_hits=hits, compile_seconds=seconds)


@functools.cache
def _listen() -> None:
    from jax import monitoring

    def on_event(event: str, **_) -> None:
        if event == _HIT:
            with _lock:
                _totals["cache_hits"] += 1

    def on_duration(event: str, seconds: float, **_) -> None:
        if event == _COMPILE:
            with _lock:
                _totals.update(requests=1, compile_seconds=seconds)

    monitoring.register_event_listener(on_event)
    monitoring.register_event_duration_secs_listener(on_duration)


def _default_directory() -> pathlib.Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    flags = platform.processor()
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo") as file:
        flags = next(line for line in file if line.startswith(("flags", "Features")))
    kind = hashlib.sha256(flags.encode()).hexdigest()[:8]
    return pathlib.Path(home) / "selfadapt" / f"compiled-{platform.machine()}-{kind}"


def _writable(directory: pathlib.Path) -> bool:
    with contextlib.suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        return os.access(directory, os.W_OK | os.X_OK)
    return False
