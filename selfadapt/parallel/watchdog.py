"""Ends this process when another one of its run has died, instead of letting it wait for ever.

A process whose peers are gone usually hangs: it waits inside a collective, in compiled code that no Python reaches.
So two threads watch. One tells the others that this process lives, through the key-value store of JAX's coordination
service, which process 0 holds; one reads what was said, and ends the process where someone is silent or has left.

JAX watches too, but answers by aborting with a stack dump, at the very moment when it loses process 0. It therefore
reaches process 0 through a relay of ours, which sees the loss first.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

PEER_DIED = 76
_INCURABLE = (2, 130)  # a user's error, Ctrl-C: starting again is no remedy, so all processes report the same status
_STOP, _ALIVE = "selfadapt/stop", "selfadapt/alive"
_GRACE = 2.0  # seconds in which the others hear why process 0 leaves, before its connections break


class Watchdog:
    """The two threads of one process.

    Attributes:
      seconds: a process that is silent so long has died, as far as the others are concerned.
    """

    def __init__(self, client: Any, index: int, count: int, seconds: float):
        """Starts watching.

        Args:
          client: JAX's connection to the coordination service.
          index: this process.
          count: how many processes there are.
          seconds: at most so long after a death all other processes have ended.
        """
        self.seconds = seconds
        self._client, self._index = client, index
        self._leaving = threading.Lock()
        watched = range(count) if index == 0 else (0,)  # process 0 watches all and tells all
        self._heard = {each: ("", time.monotonic()) for each in watched if each != index}
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._beat, self._judge)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Stops watching; all processes must have come to their ends by then."""
        self._ended.set()
        self._tell("all have come to the end", 0)  # wakes the judges
        for thread in self._threads:
            thread.join()  # a thread inside the client would crash the end of the interpreter

    def leave(self, status: int, reason: str) -> NoReturn:
        """Ends this process with a status, and takes the others with it.

        Args:
          status: of this process. The others get the same if starting again is no remedy, otherwise 76.
          reason: what the others say about this one; a clause such as "was stopped by Ctrl-C".
        """
        self._leaving.acquire()  # held until the end: another thread that wants to leave waits for ever
        self._tell(f"process {self._index} {reason}", status if status in _INCURABLE else PEER_DIED)
        self._pause()
        _exit(status)

    def lost(self) -> None:
        """Ends this process because the connection to process 0 is gone."""
        self._follow("process 0 has died, or the network to it", PEER_DIED)

    def lost_some(self, what: str) -> NoReturn:
        """Ends this process because a connection to some process broke; waits until it is known which one it was."""
        time.sleep(1.1 * self.seconds)  # the judge ends the process meanwhile, if it finds out
        self._follow(f"the connection to another process has broken ({what})", PEER_DIED)
        raise AssertionError("unreachable")

    def _beat(self) -> None:
        number = 0
        while not self._ended.is_set():
            with contextlib.suppress(Exception):  # the judge notices when nothing is heard any more
                self._client.key_value_set(f"{_ALIVE}/{self._index}", str(number), allow_overwrite=True)
                for each, (before, _) in self._heard.items():
                    said = self._read(f"{_ALIVE}/{each}")
                    if said != before:
                        self._heard[each] = said, time.monotonic()
            number += 1
            self._ended.wait(self.seconds / 10)

    def _judge(self) -> None:
        while not self._ended.is_set():
            message = ""
            with contextlib.suppress(Exception):  # usually that nobody has said anything
                message = self._client.blocking_key_value_get(_STOP, round(100 * self.seconds))
            if self._ended.is_set():
                return
            if message:
                self._follow(**json.loads(message))
            for each, (_, when) in self._heard.items():
                if time.monotonic() - when > 0.7 * self.seconds:
                    self._follow(f"process {each} has died: nothing was heard from it for {0.7 * self.seconds:.0f} s")
            self._ended.wait(0.01 * self.seconds)  # where the store answers with an error at once

    def _follow(self, what: str, status: int = PEER_DIED) -> None:
        if self._ended.is_set() or status == 0:
            return
        self._leaving.acquire()
        remedy = "" if status in _INCURABLE else "; start all processes again: the run goes on from what is saved"
        if what.startswith(f"process {self._index} "):  # it was stopped for a while, and nobody waits for it now
            what = f"the others have ended because they say: {what}"
        _say(f"selfadapt[{self._index}]: error: {what}, so this process ends too{remedy}")
        if self._index == 0:
            self._tell(what, status)
            self._pause()
        _exit(status)

    def _tell(self, what: str, status: int) -> None:
        """Leaves word for the other processes; whoever is first is believed."""

        def speak():
            with contextlib.suppress(Exception):
                self._client.key_value_set(_STOP, json.dumps({"what": what, "status": status}))

        speaker = threading.Thread(target=speak, daemon=True)
        speaker.start()
        speaker.join(_GRACE)  # the store may be gone, and then never answers

    def _pause(self) -> None:
        if self._index == 0:  # whose end breaks the others' connections
            time.sleep(_GRACE)

    def _read(self, key: str) -> str:
        try:
            return self._client.key_value_try_get(key)
        except Exception as error:
            if "NOT_FOUND" in str(error):
                return ""
            raise


class Relay:
    """Passes bytes between this process and the coordinator, and notices when the coordinator's end is closed.

    Attributes:
      address: where JAX connects to, in place of the coordinator's address.
      lost: called when the coordinator is gone; until it is set, JAX is left to try again.
    """

    def __init__(self, coordinator: str):
        """Starts to listen.

        Args:
          coordinator: "host:port".
        """
        host, _, port = coordinator.rpartition(":")
        self._coordinator = host.strip("[]"), int(port)
        self.lost: Callable[[], None] | None = None
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{listener.getsockname()[1]}"
        threading.Thread(target=self._accept, args=(listener,), name="relay", daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            near, _ = listener.accept()
            try:
                far = socket.create_connection(self._coordinator, timeout=10)
            except OSError:
                near.close()  # not there yet: JAX tries again
                continue
            far.settimeout(None)
            for each in (near, far):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            closed = threading.Event()
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(source, sink, far, closed), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, far: socket.socket, closed: threading.Event) -> None:
        """Passes bytes one way until either end closes."""
        ended = source
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                ended = sink
                sink.sendall(data)
                ended = source
        if ended is far and not closed.is_set() and self.lost:
            self.lost()  # before JAX can notice: its end is still open
        closed.set()
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@contextlib.contextmanager
def at_most(seconds: float, otherwise: str) -> Iterator[None]:
    """Ends this process with status 76 and a message if the body takes longer."""

    def end():
        _say(f"selfadapt: error: {otherwise}")
        _exit(PEER_DIED)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _exit(status: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)  # the main thread may be inside a collective that never returns
