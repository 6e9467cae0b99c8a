"""The devices that a plan is for: a TPU slice or GPUs that need not be there, or the devices of this process."""

from __future__ import annotations

import collections
import dataclasses
import math
import os
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from selfadapt.errors import UserError
from selfadapt.parallel import chips
from selfadapt.plan.gpus import target_config
from selfadapt.plan.hlo import PERMUTE, Collective

# libtpu queries a cloud's metadata server, locks the chips and writes logs. None of these is needed to compile for a
# slice that is not attached.
_QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_LOG_DIR": "disabled",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
}
_CHIPS_PER_HOST = (2, 2, 1)  # chips of the smallest slice that fills a host
_GPUS_PER_HOST = 8  # that one switch connects


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices to compile for, and how fast they are.

    Attributes:
      name: as the user wrote it.
      chip: the rates of one device.
      devices: JAX devices; those that are not attached can only be compiled for.
      measured: whether the rates were measured on this machine, because none are published.
    """

    name: str
    chip: chips.Chip
    devices: tuple[Any, ...]
    measured: bool = False

    @property
    def platform(self) -> str:
        """The devices' platform, such as "tpu" or "cpu"."""
        return self.devices[0].platform

    def seconds(self, collective: Collective, places: Sequence[Any]) -> float:
        """Returns the seconds of one run of a collective at the full rate of the links.

        On a torus the collective is a ring along each dimension that its devices span, at half the rate where
        the ends of the dimension are not connected, and divided by their distance, since the devices between them
        use the same links. A collective-permute takes as long as its `routes` need the most used link. Latency is not
        counted.

        Args:
          collective: the collective.
          places: the devices in the order of the mesh.
        """
        rate = self.chip.links
        if self.chip.torus:
            each = self.chip.links / self.chip.torus
            if collective.kind == PERMUTE:
                return collective.bytes * max(self.routes(collective, places).values(), default=0) / (each / 2)
            group = max(collective.groups, key=len)
            spans = [np.unique(along) for along in zip(*(places[place].coords for place in group), strict=True)]
            rings = [
                (1.0 if side % self.chip.ring == 0 else 0.5) / int(np.diff(span).min())
                for side, span in zip(self._sides(), spans, strict=True)
                if len(span) > 1
            ]
            rate = each * sum(rings)
        return collective.sent() / rate

    def routes(self, collective: Collective, places: Sequence[Any]) -> collections.Counter[Any]:
        """Returns how often a collective-permute uses each link of a torus, in each direction; of others nothing.

        Each pair of devices sends along the first dimension in which they differ, then along the next.

        Args:
          collective: the collective.
          places: the devices in the order of the mesh.
        """
        used: collections.Counter[Any] = collections.Counter()
        if not self.chip.torus or collective.kind != PERMUTE:
            return used
        sides = self._sides()
        for source, target in collective.groups:
            at, end = (list(places[place].coords) for place in (source, target))
            for axis, side in enumerate(sides):
                closed = side % self.chip.ring == 0
                ahead = end[axis] - at[axis]
                if closed:
                    ahead = (ahead + side // 2 - 1) % side - side // 2 + 1  # the shorter way around
                for _ in range(abs(ahead)):
                    start = tuple(at)
                    at[axis] += 1 if ahead > 0 else -1
                    at[axis] %= side
                    used[start, tuple(at)] += 1
        return used

    def _sides(self) -> list[int]:
        return (np.ptp([device.coords for device in self.devices], axis=0) + 1).tolist()


def quiet(name: str) -> None:
    """Sets the environment for compiling for devices that are not attached; call it before JAX finds its devices."""
    if name != "local":
        for variable, value in _QUIET.items():
            os.environ.setdefault(variable, value)
        if (jax := sys.modules.get("jax")) is not None and not jax.config.jax_platforms:  # read when it was imported
            jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])


def find(name: str) -> Topology:
    """Returns a topology by name.

    Args:
      name: a TPU's version and the sides of a slice, such as "v5e:4x4" or "v5p:4x4x4", a GPU and how many of a host,
        such as "h100:2", or "local" for the devices of this process.

    Raises:
      UserError: there is no such topology, or its compiler is not installed.
    """
    if name == "local":
        return _local()
    if name.partition(":")[0] in chips.GPUS:
        return _gpus(name)
    version, _, layout = name.partition(":")
    example = {2: "4x4", 3: "4x4x4"}
    if version not in chips.TPUS or not re.fullmatch(r"\d+(x\d+)+", layout):
        raise UserError(
            f"there is no topology {name!r}; give 'local', or a TPU and the sides of its slice: "
            + ", ".join(f"{tpu}:{example[chip.torus]}" for tpu, chip in chips.TPUS.items())
            + f"; or a GPU and how many of one host, up to {_GPUS_PER_HOST}: "
            + ", ".join(f"{gpu}:2" for gpu in chips.GPUS)
        )
    chip = chips.TPUS[version]
    sides = tuple(map(int, layout.split("x")))
    if len(sides) != chip.torus or not all(sides):
        raise UserError(
            f"topology {name!r}: a slice of {chip.name} has {chip.torus} sides, such as {version}:{example[chip.torus]}"
        )
    if chip.torus == 2 and max(sides) > chip.ring:
        raise UserError(f"topology {name!r}: a slice of {chip.name} has at most {chip.ring}x{chip.ring} chips")
    quiet(name)
    return Topology(name, chip, tuple(_slice(name, version, sides)))


def _slice(name: str, version: str, sides: tuple[int, ...]) -> Sequence[Any]:
    try:
        import libtpu  # noqa: F401
    except ImportError:
        raise UserError(
            f"topology {name!r} needs the TPU compiler, which runs on any Linux machine: pip install 'selfadapt[tpu]'"
        ) from None
    import jax
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if math.prod(sides) < math.prod(_CHIPS_PER_HOST):  # part of a host
        options["chips_per_host_bounds"] = sides + (1,) * (3 - len(sides))
    if version == "v4":
        options["chip_config_name"] = "megacore"  # the two cores of a chip as one device
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"topology {name!r}: the TPU compiler rejects it ({str(error).splitlines()[0]})") from None


def _gpus(name: str) -> Topology:
    """Returns GPUs of one host, which a switch connects."""
    kind, _, count = name.partition(":")
    if not (count.isdigit() and 1 <= int(count) <= _GPUS_PER_HOST):
        raise UserError(
            f"topology {name!r}: give the number of GPUs of one host, 1 to {_GPUS_PER_HOST}, such as {kind}:2; the "
            "links between hosts differ from cluster to cluster and are not planned for"
        )
    quiet(name)
    try:
        import jax_plugins.xla_cuda12  # noqa: F401
    except ImportError:
        raise UserError(
            f"topology {name!r} needs JAX's compiler for GPUs, which runs on any Linux machine: "
            "pip install 'selfadapt[gpu]'"
        ) from None
    import jax
    from jax.experimental import topologies

    options = {"topology": f"1x1x{count}", "target_config": target_config(kind)}
    try:
        found = topologies.get_topology_desc(platform="cuda", topology_name=name, **options)
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        raise UserError(f"topology {name!r}: the GPU compiler rejects it ({str(error).splitlines()[0]})") from None
    return Topology(name, chips.GPUS[kind], tuple(found.devices))


def _local() -> Topology:
    import jax

    from selfadapt.engine import memory

    devices = tuple(jax.local_devices())
    chip = chips.of(devices[0])
    if chip is not None:
        statistics = devices[0].memory_stats() or {}
        return Topology("local", dataclasses.replace(chip, memory=statistics.get("bytes_limit", chip.memory)), devices)
    kind = str(devices[0].device_kind)
    # Fake devices of one CPU share its cores and its memory.
    count = len(devices) if devices[0].platform == "cpu" else 1
    single, half = (_matrix_rate(dtype) / count for dtype in ("float32", "bfloat16"))
    bandwidth = _stream_rate() / count
    chip = chips.Chip(kind, half, single, memory.available_bytes() / count, bandwidth, bandwidth)
    return Topology("local", chip, devices, measured=True)


def _best_seconds(run: Any, times: int = 5) -> float:
    run()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _matrix_rate(dtype: str, size: int = 1024) -> float:
    """Measures products of square matrices on the first device, FLOP/s."""
    import jax
    import jax.numpy as jnp

    matrix = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: a @ a)
    return 2 * size**3 / _best_seconds(lambda: product(matrix).block_until_ready())


def _stream_rate(size: int = 64 * 2**20) -> float:
    """Measures reading and writing an array too large for caches, bytes/s."""
    import jax
    import jax.numpy as jnp

    array = jnp.ones(size // 4, jnp.float32)
    scale = jax.jit(lambda a: a * 2, donate_argnums=0)  # in place: fresh pages would cost more than the traffic

    def run():
        nonlocal array
        array = scale(array).block_until_ready()

    return 2 * size / _best_seconds(run)
