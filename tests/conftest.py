"""The suite's environment, set before anything imports JAX, and the fixtures that tests share."""

import gc
import os
import pathlib
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[1]

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that reaches for the network fails here as it would on a train
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Processes of one suite compile the same small programs; whoever is first compiles for all.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_ROOT / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Most of the suite's time is compilation. JAX's switch for that saves about a third of it; 0 tests optimized programs.
# Without XLA's fusion emitters, and with one LLVM module per program, the rest takes less than a third as long.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] != "0":
    _fast = {"--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"}
    # Each once, also in a process of a process: the cache distinguishes programs by this variable.
    os.environ["XLA_FLAGS"] = " ".join(sorted({*os.environ.get("XLA_FLAGS", "").split(), *_fast}))

# The files that take longest, longest first (CPU time of a run from a fresh clone). `make test` gives whole files to
# its workers in the order of collection, so that no module's fixtures are made twice and no long file comes last.
LONGEST = (
    "tests/test_sharded.py",
    "tests/engine/adapt/test_train.py",
    "tests/test_experiment.py",
    "tests/checkpoint/test_resume.py",
    "tests/domains/test_own_domain.py",
    "tests/engine/generate/test_sampling.py",
    "tests/parallel/processes/test_processes.py",
    "tests/engine/adapt/test_frozen.py",
    "tests/plan/test_plan.py",
    "tests/engine/adapt/test_optimizers.py",
    "tests/models/test_against_transformers.py",
    "tests/domains/tiny/rules/test_model.py",
    "tests/outer/test_rest_em.py",
    "tests/domains/tiny/test_model.py",
    "tests/checkpoint/test_units.py",
    "tests/examples/test_by_hand.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests of the longest files first."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.nodeid.partition("::")[0], len(order)))


@pytest.fixture(scope="module", autouse=True)
def no_programs_left():
    """Frees a module's compiled programs: each maps memory, and a process may have 65,530 mappings on Linux."""
    yield
    if _programs():
        sys.modules["jax"].clear_caches()
    if _programs():  # some are in reference cycles
        gc.collect()


def _programs() -> int:
    """Returns how many compiled programs this process holds."""
    return len(sys.modules["jax"].local_devices()[0].client.live_executables()) if "jax" in sys.modules else 0


@pytest.fixture(scope="session")
def seal_data() -> pathlib.Path:
    """The directory of real data (`seal/knowledge/...` below it); skips where there is none."""
    return _real_data("seal")


@pytest.fixture(scope="session")
def lse_data() -> pathlib.Path:
    """The directory of LSE's real data (`bird_dev.json`, `mmlu-pro-redux/...` below it); skips where there is none."""
    return _real_data("lse") / "lse"


def _real_data(name: str) -> pathlib.Path:
    path = pathlib.Path(os.environ.get("SELFADAPT_TEST_DATA", _ROOT.parent / "shared" / "data"))
    if not (path / name).is_dir():
        pytest.skip(f"no {name}/ in {path}; set SELFADAPT_TEST_DATA to a directory that has it")
    return path


@pytest.fixture(scope="module")
def one_stream():
    """Half as many programs to compile: `adapt` trains one stream at a time."""
    from selfadapt.engine import runtime  # after the environment above

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "parallel_streams", lambda mesh: 1)
        yield
