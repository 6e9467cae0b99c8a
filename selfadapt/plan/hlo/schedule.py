"""How long a device waits for its links, in the order in which a compiled program runs its instructions."""

from __future__ import annotations

from collections.abc import Callable

from selfadapt.plan.hlo.collective import COLLECTIVES, Collective
from selfadapt.plan.hlo.program import Operation, Program, chain


def exposed_seconds(
    program: Program, link_seconds: Callable[[Collective], float], work_seconds: Callable[[Operation], float]
) -> float:
    """Returns the time of collectives that no work hides.

    The device waits for a synchronous collective. An asynchronous one runs, after those that were started before,
    beside the instructions between its start and its end. A TPU runs its steps inside of fusions.

    Args:
      program: a compiled program, whose text has the order in which instructions run.
      link_seconds: returns the time of a collective.
      work_seconds: returns the time of one run of an operation.
    """

    def waited(place: str) -> float:
        """Returns how long one run of a computation waits."""
        total = clock = busy = 0.0  # `busy`: when the links are done with what was started
        ends: dict[str, float] = {}
        for instruction in program.computations[place].values():
            if instruction.opcode in ("while", "conditional", "call"):
                inside = (name for name in instruction.called if name in program.computations)
                total += sum(program.times[name] / program.times[place] * waited(name) for name in inside)
                continue
            wait, finished = 0.0, [name for name in instruction.operands if name in ends]
            for each, where in program.within(instruction, place):
                if each.opcode.removesuffix("-start") not in COLLECTIVES:
                    continue
                step, seconds = "chain_id" in each.rest, link_seconds(program.collective(each, where))
                if not step and not instruction.opcode.endswith("-start"):
                    wait += seconds
                    continue
                key = chain(each) if step else instruction.name
                if key not in ends:
                    ends[key] = busy = max(busy, clock) + seconds
                if instruction.name.startswith("async-collective-done"):
                    finished.append(key)
            if instruction.opcode.endswith("-done") or instruction.name.startswith("async-collective-done"):
                wait += max([0.0, *(ends.pop(key) - clock for key in finished)])
            elif not wait and not instruction.opcode.endswith("-start"):
                clock += work_seconds(program.operation(instruction, place))
            total, clock = total + wait, clock + wait
        return total

    return waited(program.entry)
