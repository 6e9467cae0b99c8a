"""The suite's environment, set before anything imports JAX, and the fixtures that tests share."""

import os
import pathlib

import pytest

_ROOT = pathlib.Path(__file__).parents[1]

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that reaches for the network fails here as it would on a train
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Processes of one suite compile the same small programs; whoever is first compiles for all.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_ROOT / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# Most of the suite's time is compilation. JAX's switch for that saves about a third of it; 0 tests optimized programs.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


@pytest.fixture(scope="session")
def seal_data() -> pathlib.Path:
    """The directory of real data (`seal/knowledge/...` below it); skips where there is none."""
    path = pathlib.Path(os.environ.get("SELFADAPT_TEST_DATA", _ROOT.parent / "shared" / "data"))
    if not (path / "seal").is_dir():
        pytest.skip(f"no SEAL data in {path}; set SELFADAPT_TEST_DATA to a directory that has seal/")
    return path
