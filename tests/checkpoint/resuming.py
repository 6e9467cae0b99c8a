"""Runs of `selfadapt train` that are stopped at a chosen moment, each in a separate process, for test_resume.py.

    python -m tests.checkpoint.resuming LOG STOP... -- ARGUMENTS OF selfadapt

Starts the same run once for each STOP, and once more to its end. A STOP is SIGNAL:WHAT:PLACE:COUNT, the signal
that the process sends itself when WHAT happens in PLACE for the COUNT-th time, or KILL:after:SECONDS. LOG gets a line
for every event. Prints each start's exit status (negative: the signal that ended it).
"""

import os
import pathlib
import signal
import sys
import threading
import time


class Stopper:
    """Writes down what happens, and sends this process a signal when its moment has come."""

    def __init__(self, log, stop):
        self.log, self.seen = pathlib.Path(log), 0
        self.signal, self.what, self.place, self.count = None, None, None, 0
        if stop:
            name, self.what, self.place, *count = stop.split(":")
            self.signal, self.count = signal.Signals[f"SIG{name}"], int(*count or [1])
            if self.what == "after":
                threading.Thread(target=self._later, args=(float(self.place),), daemon=True).start()

    def __call__(self, what, place):
        with open(self.log, "a") as file:
            file.write(f"{what} {place}\n")
        if (what, place) == (self.what, self.place):
            self.seen += 1
            if self.seen == self.count:
                os.kill(os.getpid(), self.signal)

    def awaits(self, what, place):
        """Whether the signal is due when this happens next."""
        return (what, place) == (self.what, self.place) and self.seen + 1 == self.count

    def _later(self, seconds):
        time.sleep(seconds)
        os.kill(os.getpid(), self.signal)


def watch(happens):
    """Makes the package report events: computing, computed, recorded, training, step, trained, saving, saved."""
    from selfadapt.checkpoint import arrays, rounds, units

    once, adapters, offer = units.DurableUnits.once, units.DurableUnits.adapters, units.Snapshots.offer
    save = arrays.ArrayStore.save

    def watched_once(self, name, compute):
        place = f"{self._place}{name}"

        def watched():
            happens("computing", place)
            value = compute()
            happens("computed", place)
            return value

        value = once(self, name, watched)
        happens("recorded", place)
        return value

    def watched_adapters(self, model, train):
        place = self._place.rstrip(".")

        def watched(snapshots):
            happens("training", place)
            return train(snapshots)

        trained = adapters(self, model, watched)
        if happens.awaits("trained", place):
            self._store.settle()
        happens("trained", place)
        return trained

    def watched_offer(self, name, about, tree):
        place = self._place.removesuffix(".flight.")
        if happens.awaits("step", place):  # the state is on disk when the signal arrives
            self._shared._due[f"{self._place}{name.replace(' ', '-')}."] = 0
        offer(self, name, about, tree)
        if happens.awaits("step", place):
            self._store.settle()
        happens("step", place)

    def watched_save(self, name, about, tree=None):
        save(self, name, about, tree)
        happens("saving", name)

    def watched_round(self, state, record):
        happens("finished", f"round-{state.round}")
        save_round(self, state, record)
        if happens.awaits("saved", f"round-{state.round}"):
            self._store.settle()
        happens("saved", f"round-{state.round}")

    save_round = rounds.Checkpoints.save
    units.DurableUnits.once, units.DurableUnits.adapters = watched_once, watched_adapters
    units.Snapshots.offer, arrays.ArrayStore.save = watched_offer, watched_save
    rounds.Checkpoints.save = watched_round


def start(log, stop, arguments):
    """Starts the run in a separate process and returns its exit status."""
    child = os.fork()  # nothing has used JAX here, so there are no threads that a fork would lose
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        from selfadapt import cli

        watch(Stopper(log, stop))
        code = cli.main(arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main():
    own, arguments = sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
    log, *stops = own
    # Imported once for all starts.
    import orbax.checkpoint  # noqa: F401
    from transformers import AutoTokenizer  # noqa: F401

    import selfadapt.experiment  # noqa: F401

    for stop in [*stops, None]:
        with open(log, "a") as file:
            file.write(f"start {stop}\n")
        print(f"{stop} {start(log, stop, arguments)}", flush=True)


if __name__ == "__main__":
    main()
