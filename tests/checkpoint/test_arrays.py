"""Arrays on disk: damage is detected, and what is saved is a copy."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfadapt.checkpoint.arrays import ArrayStore, DamagedError
from tests.checkpoint.damage import DAMAGES, damage

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("how", DAMAGES)
def test_damage_of_what_is_stored_is_seen(tmp_path, how):
    tree = {"a": {"q": jax.random.normal(jax.random.key(0), (3, 40, 50))}, "scale": jnp.ones(3, jnp.bfloat16)}
    store = ArrayStore(tmp_path)
    store.save("entry", {"x": 1}, tree)
    store.close()
    store = ArrayStore(tmp_path)
    assert store.names() == ["entry"] and store.about("entry") == {"x": 1}
    jax.tree.map(np.testing.assert_array_equal, store.load("entry", tree), tree)
    damage(tmp_path / "entry", how)
    with pytest.raises(DamagedError):
        store.about("entry")
        store.load("entry", tree)
    store.close()


def test_a_changed_description_is_seen(tmp_path):
    store = ArrayStore(tmp_path)
    store.save("entry", {"round": 1})
    store.close()
    (file,) = (
        path for path in (tmp_path / "entry" / "head").rglob("*") if path.is_file() and "round" in path.read_text()
    )
    file.write_text(file.read_text().replace("1", "2", 1))
    store = ArrayStore(tmp_path)
    with pytest.raises(DamagedError):
        store.about("entry")
    store.close()


FULL = """
import resource, sys, jax
from selfadapt.files import StorageError
from selfadapt.checkpoint.arrays import ArrayStore

store = ArrayStore(sys.argv[1])
store.save("small", {}, {"x": jax.numpy.ones(3)})
store.settle()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    store.save("large", {}, {"x": jax.random.normal(jax.random.key(0), (300, 1000))})
    store.settle()
except StorageError as error:
    print(error)
assert store.names() == ["small"]
"""


def test_a_disk_that_is_full_is_named(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert f"no space left to write {tmp_path}" in done.stdout, done.stderr[-2000:]


def test_what_is_saved_is_what_was_there_although_the_next_step_overwrites_it(tmp_path):
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = step(jnp.zeros((256, 1024)))
    store = ArrayStore(tmp_path)
    store.save("entry", {}, {"x": x})
    for _ in range(50):
        x = step(x)
    store.settle()
    assert (store.load("entry", {"x": x})["x"] == 1).all()
    store.close()
