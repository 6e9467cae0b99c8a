"""What streams have learned so far: the adapters of their steps, added up, averaged, or apart."""

from __future__ import annotations

from selfadapt.engine.adapt.schedule import power_of_two
from selfadapt.models.lora import Adapters
from selfadapt.protocols.continual.remedies import SUM, Remedy

FEW_STEPS = 8  # have adapters of one padded rank, so that they share their programs; further ones double it


def padded_rank(rank: int, steps: int, length: int) -> int:
    """Returns the rank that the sum of the adapters of `steps` steps of `length` is padded to."""
    return rank * max(power_of_two(steps), power_of_two(min(FEW_STEPS, length)))


class Learned:
    """The adapters of the steps so far.

    A step that failed adds zeros, and does not count in a mean: the stream stays as it was.

    Attributes:
      steps: how many steps there were.
      status: what became of each stream's last edit.
    """

    def __init__(self, remedy: Remedy, streams: int, length: int):
        """Starts before the first step.

        Args:
          remedy: which adapters add up.
          streams: how many streams there are.
          length: the steps to come.
        """
        self.steps = 0
        self.status = ["ok"] * streams
        self._remedy = remedy
        self._counts = [0] * streams  # steps that did not fail
        self._length = length
        self._total: Adapters | None = None  # the sum of the steps
        self._apart: list[Adapters] = []  # the steps, where each answers alone

    def add(self, new: Adapters) -> None:
        """Adds the adapters that a step has trained, one of each stream."""
        self.steps += 1
        self.status = list(new.status)
        if self._remedy.retrieves:
            self._apart.append(new)
            return
        self._counts = [count + (status == "ok") for count, status in zip(self._counts, new.status, strict=True)]
        total = new if self._total is None else self._total.join(new)
        widest = max(spec.rank for spec in new.specs)
        self._total = total.padded(padded_rank(widest, self.steps, self._length))

    def below(self) -> Adapters | None:
        """Returns the adapters that the next step is trained on top of; `None` for the base."""
        return self._total if self._remedy.answers == SUM else None

    def current(self) -> Adapters | None:
        """Returns the adapters of the streams' current models; `None` for the base.

        That is also the model that writes an edit where adapters are retrieved: there is none yet for a new passage.
        """
        if self._total is None or self._remedy.answers == SUM:
            return self._total
        return self._total.scaled([1 / max(1, count) for count in self._counts])

    def all(self) -> Adapters:
        """Returns the adapters of all steps as one stack, step by step, where they are retrieved."""
        return Adapters.stack(self._apart)
