"""The allocator's settings: memory that programs free is kept, in a command until it ends."""

import os
import subprocess
import sys

import pytest

from selfadapt import allocator

# Allocates and frees 40 MB ten times on a second thread, and prints the page faults of the last nine times.
_FREED = """
import resource, threading
from selfadapt import allocator
ready, go = threading.Event(), threading.Event()
def work():
    import ctypes
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    ready.set()
    go.wait()
    for number in range(10):
        blocks = [libc.malloc(10 * 2**20) for _ in range(4)]
        for block in blocks:
            ctypes.memset(block, 1, 10 * 2**20)
        if not number:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for block in blocks:
            libc.free(block)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
EARLY
thread = threading.Thread(target=work)
thread.start()
ready.wait()
go.set()
thread.join()
"""


def faults(early=""):
    code = _FREED.replace("EARLY", early)
    variables = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not allocator.keep(), reason="another allocator than glibc's")
def test_memory_that_a_thread_frees_is_kept_from_the_start_of_a_command():
    assert faults(early="allocator.keep_in_process()") < 2000  # of 92,000 pages
    assert faults() > 80_000


def test_the_environment_can_leave_the_allocator_alone(monkeypatch):
    monkeypatch.setenv("SELFADAPT_KEEP_FREED_MEMORY", "0")
    assert allocator.keep.__wrapped__() is False


def test_it_is_left_alone_where_jax_may_find_an_accelerator(monkeypatch):
    monkeypatch.setattr(allocator, "_kept_by_process", False)
    monkeypatch.setattr(allocator.importlib.util, "find_spec", lambda name: object())
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    allocator.keep_in_process()
    assert not allocator._kept_by_process


def test_a_command_returns_no_memory_between_calls(monkeypatch):
    trims = []
    monkeypatch.setattr(allocator, "keep", lambda: True)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: type("libc", (), {"malloc_trim": trims.append}))
    for process in (True, False):
        monkeypatch.setattr(allocator, "_kept_by_process", process)
        allocator.return_kept()
    assert trims == [0]
