"""The ratios of compiled programs, of a small model on the devices of this machine."""

import dataclasses
import functools
import json

import jax
import pytest

from benchmarks import compiled
from benchmarks.compiled import Case, Row
from selfadapt.parallel import chips
from selfadapt.plan import topology
from tests.engine.tiny import CONFIG

CHIP = chips.Chip("test chip", 2e11, 1e11, 2**33, 1e10, 1e9)
FIELDS = {"contexts": 4, "edits": 2, "at_once": 8, "dtype": "float32", "sampling.max_new_tokens": 64}
SMALL = "passage=24,edit=30,longest=40,line=10,questions=2,question=16"


@pytest.fixture
def case(tmp_path, monkeypatch):
    """A model whose layers are scanned, on one device with known rates."""
    here = topology.Topology("local", CHIP, tuple(jax.local_devices()[:1]), measured=True)
    monkeypatch.setattr(topology, "_local", lambda: here)
    monkeypatch.setattr(compiled, "Assumed", functools.partial(compiled.Assumed.parse, SMALL))
    architecture = dataclasses.replace(CONFIG, num_layers=6, hidden_size=64, head_dim=16, max_position_embeddings=512)
    (tmp_path / "config.json").write_text(json.dumps(architecture.to_json()))
    return Case(str(tmp_path / "config.json"), "local", FIELDS)


@pytest.mark.usefixtures("one_stream")
def test_a_training_step_computes_nothing_twice(case, tmp_path, capsys):
    rows = (
        Row("flops", "FLOPs", case, compiled.flops_of_adapt, 1.1, 1.0),  # what the causal mask hides is computed
        Row("bytes", "bytes", case, compiled.bytes_of_adapt, 1.0, 1.0),
        Row("tensor", "links", case, compiled.waiting_of_adapt, 1.0, 1.0),  # one device has none
    )
    assert compiled.main(["--rows=flops,tensor"], rows) == 0
    file = tmp_path / "values.json"
    assert compiled.main([f"--json={file}"], rows) == 1  # activations take more than the weights
    flops, moved, waiting = json.loads(file.read_text())
    assert waiting["value"] == 1.0
    assert 1.0 <= flops["value"] <= 1.1
    config, programs = case.planner.model.config, moved["programs"]
    assert [each["name"] for each in programs] == ["adapt 2x1x24", "adapt 2x1x16"]
    weights = 97 * 64 + 64 + 6 * (2 * 64 + 4 * 16 + 2 * 2 * 16 + sum(i * o for i, o in config.projections().values()))
    trained = 3 * 2 * 6 * 32 * (64 + 64 + 64 + 32)  # with Adam's moments, of two adapters of rank 32
    read = sum(each["runs"] * each["bytes"] for each in programs) / sum(each["runs"] for each in programs)
    assert moved["value"] == pytest.approx(read / (4 * (2 * weights + trained)), rel=1e-3)
    assert f"| FLOPs | {flops['value']:.3g} | 1.1 | 1 | local | adapt 2x1x24: " in capsys.readouterr().out


def test_an_unknown_row_is_named(capsys):
    with pytest.raises(SystemExit):
        compiled.main(["--rows=flops,flips"])
    assert "--rows has no 'flips'; there are flops, bytes" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "kinds"), [("episode", 2), ("outer_round", 3)])
def test_programs_of_contexts_are_traced_with_abstract_arrays(case, name, kinds):
    step = compiled.one_program(case, name)
    text = step.lower().as_text()
    assert "tensor<4x2x2xui32>" in text and "stablehlo.while" in text  # keys of two edits of four contexts
    assert (step.trips, len(step.inputs)) == (29, kinds)
