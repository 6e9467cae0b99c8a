"""How long a device waits for its links, in the order in which a compiled program runs its instructions."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from selfadapt.plan.hlo.collective import COLLECTIVES, Collective
from selfadapt.plan.hlo.program import Operation, Program, chain


def exposed_seconds(
    program: Program,
    link_seconds: Callable[[Collective], float],
    work_seconds: Callable[[Operation], float],
    links: Callable[[Collective], Collection[Any]] = lambda _: (),
) -> float:
    """Returns the time of collectives that no work hides.

    A collective begins when the links that it uses are done with those before. The device waits for a synchronous one;
    an asynchronous one runs beside the instructions between its start and its end. A TPU runs its steps inside of
    fusions.

    Args:
      program: a compiled program, whose text has the order in which instructions run.
      link_seconds: returns the time of a collective.
      work_seconds: returns the time of one run of an operation.
      links: returns the links that a collective uses, each in one direction; none where it uses all.
    """

    def waited(place: str) -> float:
        """Returns how long one run of a computation waits."""
        total = clock = 0.0
        ends: dict[str, float] = {}
        busy: dict[Any, float] = {}  # when a link is done with what was started; `None`: all links

        def end(collective: Collective, begin: float) -> float:
            """Returns when a collective that is started at a time ends."""
            used = links(collective)
            before = [busy.get(link, 0.0) for link in (*used, None)] if used else busy.values()
            done = max([begin, *before]) + link_seconds(collective)
            busy.update(dict.fromkeys(used or (None,), done))
            return done

        for instruction in program.computations[place].values():
            if instruction.opcode in ("while", "conditional", "call"):
                inside = (name for name in instruction.called if name in program.computations)
                total += sum(program.times[name] / program.times[place] * waited(name) for name in inside)
                continue
            wait, finished = 0.0, [name for name in instruction.operands if name in ends]
            for each, where in program.within(instruction, place):
                if each.opcode.removesuffix("-start") not in COLLECTIVES:
                    continue
                step, collective = "chain_id" in each.rest, program.collective(each, where)
                if not step and not instruction.opcode.endswith("-start"):
                    wait = end(collective, clock + wait) - clock
                    continue
                key = chain(each) if step else instruction.name
                if key not in ends:
                    ends[key] = end(collective, clock)
                if instruction.name.startswith("async-collective-done"):
                    finished.append(key)
            if instruction.opcode.endswith("-done") or instruction.name.startswith("async-collective-done"):
                wait += max([0.0, *(ends.pop(key) - clock for key in finished)])
            elif not wait and not instruction.opcode.endswith("-start"):
                clock += work_seconds(program.operation(instruction, place))
            total, clock = total + wait, clock + wait
        return total

    return waited(program.entry)
