"""The cache of compiled programs, and counts of compilations."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp

from selfadapt.telemetry import compilation

COMPILE = """
import jax, jax.numpy as jnp, json, sys
from selfadapt.telemetry import compilation
directory = compilation.use_cache()
compilation.counts()
x = jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8)))
print(json.dumps([directory, compilation.counts()]))
"""


def compile_in_another_process(tmp_path, **environment):
    clean = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    clean |= {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(pathlib.Path(__file__).parents[2])} | environment
    done = subprocess.run([sys.executable, "-c", COMPILE], env=clean, capture_output=True, text=True, check=True)
    return *json.loads(done.stdout), done.stderr


def test_a_second_process_compiles_nothing_again(tmp_path):
    directory, first, _ = compile_in_another_process(tmp_path)
    assert pathlib.Path(directory).is_relative_to(tmp_path / "selfadapt")
    assert first["compiled"] > 0 and first["cache_hits"] == 0
    _, second, _ = compile_in_another_process(tmp_path)
    assert second["compiled"] == 0 and second["cache_hits"] == first["compiled"]


def test_a_damaged_entry_of_the_cache_is_compiled_again(tmp_path):
    directory, first, _ = compile_in_another_process(tmp_path)
    for file in pathlib.Path(directory).glob("*-cache"):
        file.write_bytes(file.read_bytes()[:100])  # as a process leaves it that was killed while writing
    _, second, _ = compile_in_another_process(tmp_path)
    assert second["compiled"] == first["compiled"]


def test_the_cache_can_be_moved_and_disabled(tmp_path):
    elsewhere = str(tmp_path / "elsewhere")
    assert compile_in_another_process(tmp_path, SELFADAPT_COMPILATION_CACHE=elsewhere)[0] == elsewhere
    assert compile_in_another_process(tmp_path, JAX_COMPILATION_CACHE_DIR=elsewhere)[1]["cache_hits"] > 0
    assert compile_in_another_process(tmp_path, SELFADAPT_COMPILATION_CACHE="0")[0] is None
    (tmp_path / "file").write_text("")
    directory, counts, printed = compile_in_another_process(
        tmp_path, SELFADAPT_COMPILATION_CACHE=str(tmp_path / "file")
    )
    assert directory is None and counts["compiled"] > 0 and "cannot be written" in printed


def test_counting_compilations_starts_at_the_first_call():
    before = compilation.counts()
    jax.jit(lambda x: x - 2.75)(jnp.ones(11))
    after = compilation.counts()
    assert after["compiled"] + after["cache_hits"] > before["compiled"] + before["cache_hits"]
