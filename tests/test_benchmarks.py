"""The engine's benchmark runs whole, on sizes that take seconds."""

import dataclasses
import json

import pytest

from selfadapt import TokenSequence, Update


@pytest.mark.slow
def test_the_engine_benchmark_runs_and_writes_its_results(tmp_path, capsys):
    pytest.importorskip("peft")
    from benchmarks import engine

    engine.main(["--quick", "--runs", "2", "--json", str(tmp_path / "result.json")])
    result = json.loads((tmp_path / "result.json").read_text())
    many = result["many_updates"]
    assert 0 < many["times_peft_least"] <= many["times_peft"] <= many["times_peft_most"]
    assert many["peft_processes"] == result["machine"]["cores"]
    assert [(row["slots"], row["training_steps"]) for row in result["host"]] == [(2, 32)]
    assert all(row["times_peft"] > 0 for row in result["decoding"])
    assert [row["adapters"] for row in result["adapter_costs"]] == [1, 2]
    assert result["memory_mib"]["least"] > 0
    assert "| rows | base_tokens_per_second | adapters_tokens_per_second |" in capsys.readouterr().out


def test_training_operations_are_four_a_base_weight_and_token_and_six_an_adapter_weight():
    from benchmarks import engine

    config = dataclasses.replace(engine.TOY, num_layers=3)
    update = Update([TokenSequence(tuple(range(10)))], rank=2, targets=("q_proj",), epochs=5)
    weights = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64  # q and o, k and v, and the three of the MLP
    token = 3 * (4 * weights + 6 * 2 * (32 + 32)) - 2 * (32 * 32 + 2 * 32 * 16)
    expected = 5 * (10 * token + 3 * 12 * 10 * 10 * 32 + 4 * 9 * 32 * 97)
    assert engine.training_flops(config, [update]) == expected
