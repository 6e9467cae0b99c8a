"""These tests need eight devices; `tests/test_sharded.py` runs them in a process that has as many."""

import jax
import pytest

from selfadapt.parallel.sharding import make_mesh

if jax.device_count() != 8:
    collect_ignore_glob = ["test_*.py"]

# The last mesh has every axis; the others divide along one axis only.
MESHES = [*(pytest.param(one, marks=pytest.mark.slow) for one in [(8, 1, 1), (1, 8, 1), (1, 1, 8)]), (2, 2, 2)]


@pytest.fixture(scope="module", params=MESHES, ids=lambda shape: "x".join(map(str, shape)))
def mesh(request):
    """A mesh of eight devices, (data, fsdp, tensor)."""
    return make_mesh(*request.param)
