"""The configs of LSE: the paper's settings, and what the embedded ones need."""

import pytest

from selfadapt.config import load_config
from selfadapt.defaults import resolve
from selfadapt.domains import make_domain, sql
from selfadapt.experiment import make_settings
from selfadapt.outer import make_outer
from tests.domains.instructions import following

PAPER = ("lse/paper/bird_qwen3_4b", "lse/paper/mmlu_qwen3_4b")


@pytest.mark.parametrize("name", PAPER)
def test_the_published_settings_are_what_is_run(name):
    config = resolve(load_config(name))
    assert (config.contexts, config.edits, config.data.holdout, config.domain.batch) == (32, 4, 50, 10)
    assert (config.domain.environments, config.domain.tree_rounds, config.domain.tree_edits) == (200, 20, 1)
    assert (config.domain.selection, config.domain.ucb_c) == ("ucb", 2.0)
    assert config.rounds * config.contexts == 4 * 4000
    settings, outer = make_settings(config), make_outer(config)
    assert settings.invalid_reward == -1.0 and settings.temperature == settings.top_p == 1.0
    assert (outer.baseline, outer.train, outer.kl, outer.entropy) == ("task", "all", 0.0, 0.0)
    training = outer.training
    assert (training.learning_rate, training.weight_decay, training.max_grad_norm) == (1e-6, 0.01, 1.0)
    assert (training.epochs, training.batch_size, training.schedule) == (1, 32 * 4, "constant")


def test_the_text_to_sql_config_is_built_with_other_files(tmp_path):
    sql.generate(tmp_path, seed=0, questions=10)
    files = {"path": f"{tmp_path}/dev.json", "databases": str(tmp_path)}
    data = {f"data.{prefix}{name}": value for prefix in ("", "eval_") for name, value in files.items()}
    small = {"data.holdout": "4", "domain.chat": "False", "domain.environments": "7"}
    config = resolve(load_config(PAPER[0], data | small))
    domain = make_domain(config, following.model(100_000).model)
    assert len(domain.tasks("train", 32)) == 32 and len(domain.tasks("heldout", 5)) == 5
    assert domain.growth.rounds == 20 and domain.style.parse_edit("<prompt>Write one SELECT.</prompt>")


@pytest.mark.parametrize("name", ["lse/quickstart", "lse/tiny_rules"])
def test_the_configs_of_the_world_of_rules_learn_from_improvements(name):
    config = resolve(load_config(name))
    assert (config.preset, config.invalid_reward) == ("tiny_lse", -1.0)
    assert make_outer(config).baseline == "task"
    domain = make_domain(config, following.model().model)
    assert len(domain.tasks("train", config.contexts, config.rounds - 1)) == config.contexts
    assert len(domain.tasks("heldout", config.evaluation.contexts)) == config.evaluation.contexts


def test_evolution_has_the_published_rounds_and_temperature_and_lacks_what_it_does_not_read():
    config = resolve(load_config("lse/paper/evolve_bird_qwen3_4b"))
    assert (config.domain.tree_rounds, config.domain.tree_edits, config.domain.batch) == (25, 1, 10)
    assert (config.sampling.temperature, config.sampling.top_p, config.data.holdout) == (0.7, 0.8, 50)
    assert config.data.holdout % config.protocol.folds == 0
    tiny = load_config("lse/evolve")
    assert resolve(tiny).preset == "tiny_lse" and {"rounds", "outer", "inner", "grader"}.isdisjoint(tiny)
    assert "environments" not in tiny.domain and "environments" not in resolve(tiny).domain
