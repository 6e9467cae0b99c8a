"""LoRA adapters: a stack of K of them as one pytree, and the object that users hold.

An adapter is an input of the decoder, not part of its state. Adapters of different rank or targets share one
stack: a missing rank or target is filled with zeros. With zeros on both sides of the low-rank
product their gradients are exactly zero, and so are Adam's steps, so the padding needs no mask.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from selfadapt.errors import InvalidValueError
from selfadapt.models.config import PROJECTION_AXES, ModelConfig
from selfadapt.parallel import sharding

Array = jax.Array


@flax.struct.dataclass
class Lora:
    """K adapters of one base model (LoRA, arXiv 2106.09685).

    Attributes:
      a: for each target the down-projections, `[layers, adapters, features in, rank]`, float32.
      b: for each target the up-projections, `[layers, adapters, rank, features out]`, float32.
      scale: alpha / rank of each adapter, `[adapters]`.
    """

    a: dict[str, Array]
    b: dict[str, Array]
    scale: Array

    def layers(self) -> dict[str, Any]:
        """Returns the adapters with a leading layer axis on every leaf, to be scanned beside the layers."""
        depth = next(iter(self.a.values())).shape[0]
        return {"a": self.a, "b": self.b, "scale": jnp.broadcast_to(self.scale, (depth, *self.scale.shape))}

    def map(self, function: Callable[[Any, tuple[str, ...]], Any]) -> Lora:
        """Returns the stack with a function applied to each array and its logical axes (`parallel.sharding`)."""
        return Lora(
            a={name: function(leaf, factor_axes(name)[0]) for name, leaf in self.a.items()},
            b={name: function(leaf, factor_axes(name)[1]) for name, leaf in self.b.items()},
            scale=function(self.scale, ("adapters",)),
        )

    def without(self, bad: Any) -> Lora:
        """Returns the stack with zeros in place of the adapters that `bad`, `[adapters]`, marks."""
        mask = jnp.asarray(bad)[:, None, None]
        a, b = ({name: jnp.where(mask, 0.0, leaf) for name, leaf in side.items()} for side in (self.a, self.b))
        return Lora(a, b, self.scale)

    def repeated(self, count: int) -> Lora:
        """Returns a stack of `count` adapters: itself, or its one adapter as often."""

        def repeat(leaf, axes):
            shape = [count if axis == "adapters" else size for axis, size in zip(axes, leaf.shape, strict=True)]
            return jnp.broadcast_to(leaf, shape)

        return self.map(repeat)

    def take(self, index: Any) -> Lora:
        """Returns the adapters at an index array or slice, as a stack."""
        return Lora(
            a={name: leaf[:, index] for name, leaf in self.a.items()},
            b={name: leaf[:, index] for name, leaf in self.b.items()},
            scale=self.scale[index],
        )


def factor_axes(target: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the logical axes (`selfadapt.parallel.sharding`) of a target's two factors in a `Lora`."""
    inside, outside = ("features" if axis == "hidden" else axis for axis in PROJECTION_AXES[target])
    return ("layers", "adapters", inside, "rank"), ("layers", "adapters", "rank", outside)


def stack_size(count: int, where: Any) -> int:
    """Returns how many adapters a stack of `count` has on a mesh, padding included."""
    return count if count == 1 else sharding.round_up(count, sharding.num_shards(where))


def abstract_lora(config: ModelConfig, count: int, rank: int, targets: Sequence[str], where: Any) -> Lora:
    """Returns a stack of adapters as abstract arrays, sharded over a mesh (`None`: on one device)."""
    a: dict[str, Any] = {}
    b: dict[str, Any] = {}
    for name in targets:
        inside, outside = config.projections()[name]
        a[name], b[name] = (config.num_layers, count, inside, rank), (config.num_layers, count, rank, outside)
    shapes: Any = Lora(a, b, (count,))  # type: ignore[arg-type]
    return shapes.map(lambda shape, axes: sharding.abstract(where, shape, jnp.float32, axes))


def resolve_targets(targets: str | Sequence[str], config: ModelConfig) -> tuple[str, ...]:
    """Returns the projections that `targets` names, in the order of the block.

    Args:
      targets: names of projections as in PEFT (a name also matches with a path before it, such as
        "self_attn.q_proj"), or "all-linear" for every projection of a block.
      config: the base model's architecture.

    Raises:
      ValueError: a name is not a projection of this architecture.
    """
    known = config.projections()
    if isinstance(targets, str):
        if targets == "all-linear":
            return tuple(known)
        targets = (targets,)
    names = {str(target).rsplit(".", 1)[-1] for target in targets}
    if unknown := sorted(names - set(known)):
        raise InvalidValueError(
            f"no projection is called {', '.join(map(repr, unknown))}; a LoRA adapter can target "
            f"{', '.join(known)}, or 'all-linear' for all of them"
        )
    return tuple(name for name in known if name in names)


def initial_factors(config: ModelConfig, rank: int, target: str, seed: int) -> np.ndarray:
    """Draws PEFT's initial down-projection, uniform in +-1/sqrt(features in), `[layers, in, rank]`.

    The draw depends on the seed and the target's name only: two updates with one seed start from the same
    adapter, independent of their position in a stack and of their other targets.
    """
    features = config.projections()[target][0]
    digest = hashlib.sha256(f"lora {seed} {target}".encode()).digest()
    generator = np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "little")))
    draw = generator.random((config.num_layers, features, rank), dtype=np.float32)
    return (2 * draw - 1) / math.sqrt(features)


@dataclasses.dataclass(frozen=True)
class Spec:
    """The hyper-parameters of one adapter.

    Attributes:
      rank: its rank, before zero-padding.
      alpha: its alpha.
      targets: the projections that it adapts.
      scale: the factor on its output; alpha / rank unless the adapter sets another.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]
    scale: float | None = None

    @property
    def output_scale(self) -> float:
        """The factor on the adapter's output."""
        return self.alpha / self.rank if self.scale is None else self.scale


@dataclasses.dataclass
class Adapters:
    """A stack of adapters of one base model, with the result of training each.

    `adapters[k]` and `adapters[i:j]` are again stacks (of one adapter, of several).

    Attributes:
      lora: the stack on the device. On a mesh its adapter axis may be padded past the last adapter.
      specs: rank, alpha and targets of each adapter.
      status: "ok", or why the training failed (the adapter then equals the base model).
      losses: the training loss of each optimiser step, for each adapter; empty when it was not trained here.
      stats: counts and times of the training (see `adapt`); shared by all slices.
    """

    lora: Lora
    specs: tuple[Spec, ...]
    status: list[str] = dataclasses.field(default_factory=list)
    losses: list[np.ndarray] = dataclasses.field(default_factory=list)
    stats: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self.status = self.status or ["ok"] * len(self.specs)
        self.losses = self.losses or [np.zeros(0, np.float32)] * len(self.specs)

    def __len__(self) -> int:
        return len(self.specs)

    def __iter__(self) -> Iterator[Adapters]:
        return (self[k] for k in range(len(self)))

    def __getitem__(self, index: int | slice) -> Adapters:
        if not isinstance(index, slice):
            if not -len(self) <= index < len(self):
                raise IndexError(f"adapter {index} of a stack of {len(self)}")
            start = index % len(self)
            index = slice(start, start + 1)
        index = slice(*index.indices(len(self)))
        return Adapters(self.lora.take(index), self.specs[index], self.status[index], self.losses[index], self.stats)

    def on(self, where: sharding.Mesh | None) -> Adapters:
        """Returns the stack with the sharding that programs on a mesh expect.

        Several adapters are sharded, padded with adapters of zeros to a multiple of the shards; a single one is
        replicated. Without a mesh the stack is returned unchanged.
        """
        if where is None:
            return self
        count = stack_size(len(self), where)

        def put(leaf, axes):
            axis = axes.index("adapters")
            if (have := leaf.shape[axis]) < count:
                leaf = jnp.pad(leaf, [(0, count - have if i == axis else 0) for i in range(leaf.ndim)])
            elif have > count:
                leaf = jax.lax.slice_in_dim(leaf, 0, count, axis=axis)
            return sharding.put(where, leaf, axes)

        return dataclasses.replace(self, lora=self.lora.map(put))

    def join(self, other: Adapters) -> Adapters:
        """Returns adapters that each have the effect of two together: A B + A' B' is one product of both ranks.

        Args:
          other: a stack of as many adapters, of any ranks and targets.

        Returns:
          Adapters with the factors of both side by side and scale 1 (the scales are part of the up-projections).
          Each has as its rank the sum of both ranks. Status and losses are those of `other`.

        Raises:
          InvalidValueError: the stacks hold different numbers of adapters.
        """
        count = len(self)
        if len(other) != count:
            raise InvalidValueError(f"stacks of {count} and {len(other)} adapters cannot be joined; give one for each")
        parts = (self, other)
        widths = [next(iter(part.lora.a.values())).shape[-1] for part in parts]
        # Which ranks of an array are those of adapter k, and not padding: these come first.
        own = np.concatenate(
            [
                np.arange(width) < np.asarray([spec.rank for spec in part.specs])[:, None]
                for part, width in zip(parts, widths, strict=True)
            ],
            axis=1,
        )
        order = None if own.all() else np.argsort(~own, axis=1, kind="stable")[:, : int(own.sum(1).max())]
        names = tuple(name for name in PROJECTION_AXES if any(name in part.lora.a for part in parts))
        lora = _side_by_side(*(part.lora for part in parts), order, count=count, names=names)
        specs = []
        for one, two in zip(self.specs, other.specs, strict=True):
            targets = tuple(name for name in names if name in one.targets or name in two.targets)
            specs.append(Spec(one.rank + two.rank, float(one.rank + two.rank), targets))
        return Adapters(lora, tuple(specs), list(other.status), list(other.losses), other.stats)

    def scaled(self, factors: Sequence[float]) -> Adapters:
        """Returns the adapters with the output of each multiplied by its factor.

        Args:
          factors: one for each adapter.

        Raises:
          InvalidValueError: there are fewer or more factors than adapters.
        """
        if len(factors) != len(self):
            raise InvalidValueError(f"{len(factors)} factors for {len(self)} adapters; give one for each")
        specs = [
            dataclasses.replace(spec, scale=spec.output_scale * factor)
            for spec, factor in zip(self.specs, factors, strict=True)
        ]
        every = np.ones(len(self.lora.scale), np.float32)  # a mesh's padding included
        every[: len(self)] = factors
        lora = dataclasses.replace(self.lora, scale=self.lora.scale * every)
        return dataclasses.replace(self, lora=lora, specs=tuple(specs))

    def padded(self, rank: int) -> Adapters:
        """Returns the same adapters with factors padded with zeros to a rank.

        Stacks of few ranks need few compiled programs.
        """
        return dataclasses.replace(self, lora=_padded(self.lora, rank))

    @classmethod
    def stack(cls, parts: Sequence[Adapters]) -> Adapters:
        """Joins stacks into one; ranks and targets that differ are zero-padded."""
        if not parts:
            raise InvalidValueError("there are no adapters to stack")
        rank = max(next(iter(part.lora.a.values())).shape[-1] for part in parts)
        shapes: dict[str, tuple[int, int]] = {}
        for part in parts:
            for name, leaf in part.lora.a.items():
                shapes.setdefault(name, (leaf.shape[2], part.lora.b[name].shape[3]))
        depth = next(iter(parts[0].lora.a.values())).shape[0]

        def joined(side: str, name: str) -> Array:
            leaves = []
            for part in parts:
                factors = getattr(part.lora, side)
                full = (shapes[name][0], rank) if side == "a" else (rank, shapes[name][1])
                leaf = factors.get(name)
                if leaf is None:
                    leaf = jnp.zeros((depth, len(part), *full), jnp.float32)
                leaf = leaf[:, : len(part)]
                pad = [(0, 0), (0, 0)] + [(0, want - have) for want, have in zip(full, leaf.shape[2:], strict=True)]
                leaves.append(jnp.pad(leaf, pad))
            return jnp.concatenate(leaves, axis=1)

        return cls(
            lora=Lora(
                a={name: joined("a", name) for name in shapes},
                b={name: joined("b", name) for name in shapes},
                scale=jnp.concatenate([part.lora.scale[: len(part)] for part in parts]),
            ),
            specs=tuple(spec for part in parts for spec in part.specs),
            status=[status for part in parts for status in part.status],
            losses=[losses for part in parts for losses in part.losses],
            stats=parts[0].stats,
        )


@functools.partial(jax.jit, static_argnames=("count", "names"))
def _side_by_side(first: Lora, second: Lora, order: Array | None, *, count: int, names: tuple[str, ...]) -> Lora:
    """Returns the first `count` adapters of two stacks as one stack, see `Adapters.join`.

    Args:
      first: a stack.
      second: another of the same base.
      order: for each adapter which ranks of both to take, `[count, ranks]`; `None` for all.
      count: adapters in the result.
      names: the targets of both stacks.
    """

    def joined(side: str, name: str, axis: int) -> Array:
        leaves = []
        for own, other in ((first, second), (second, first)):
            leaf = getattr(own, side).get(name)
            if leaf is None:
                shape = list(getattr(other, side)[name].shape)
                shape[axis] = next(iter(own.a.values())).shape[-1]
                leaf = jnp.zeros(shape, jnp.float32)
            elif side == "b":
                leaf = leaf * own.scale[:, None, None]
            leaves.append(leaf[:, :count])
        leaf = jnp.concatenate(leaves, axis=axis)
        if order is None:
            return leaf
        return jnp.take_along_axis(leaf, jnp.expand_dims(order, (0, 5 - axis)), axis=axis)

    a, b = ({name: joined(side, name, axis) for name in names} for side, axis in (("a", 3), ("b", 2)))
    return Lora(a, b, jnp.ones(count, jnp.float32))


@functools.partial(jax.jit, static_argnames="rank")
def _padded(lora: Lora, rank: int) -> Lora:
    def pad(leaf: Array, axes: tuple[str, ...]) -> Array:
        sizes = zip(leaf.shape, axes, strict=True)
        return jnp.pad(leaf, [(0, max(0, rank - size) if axis == "rank" else 0) for size, axis in sizes])

    return lora.map(pad)
