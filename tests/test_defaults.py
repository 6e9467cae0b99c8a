"""Presets: complete, of one source, and applied to every hyper-parameter that a config leaves open."""

import dataclasses
import json
import pathlib

import pytest

from selfadapt import Update
from selfadapt.config import ConfigError, check_workdir, config_to_json, load_config, save_config
from selfadapt.defaults import experiment, resolve
from selfadapt.presets import PRESETS

QUICKSTART = pathlib.Path(__file__).parents[1] / "configs" / "quickstart.py"


@pytest.mark.parametrize(("paper", "tiny"), [("seal", "tiny"), ("seal_arc", "tiny_arc"), ("lse", "tiny_lse")])
def test_presets_set_the_same_fields_to_values_of_the_same_types(paper, tiny):
    paper, tiny = PRESETS[paper], PRESETS[tiny]
    assert set(paper) == set(tiny)
    assert {name: type(value) for name, value in paper.items()} == {name: type(value) for name, value in tiny.items()}


@pytest.mark.parametrize("preset", list(PRESETS))
def test_a_resolved_config_leaves_no_hyper_parameter_open(preset):
    domains = {"arc": "arc", "lse": "instructions", "ways": "weights_or_words"}
    config = experiment(domains.get(preset.rpartition("_")[2], "knowledge"))
    config.preset = preset
    resolved = resolve(config)
    for group in ("sampling", "answer", "inner", "outer", "evaluation", "domain", "data"):
        assert "null" not in json.dumps(resolved[group].to_dict()), group


def test_the_seal_preset_trains_with_the_defaults_of_update():
    config = experiment()
    config.preset = "seal"
    update = Update((), **resolve(config).inner)
    assert update == Update(())
    assert (update.rank, update.alpha, update.learning_rate, update.epochs) == (32, 64, 1e-3, 10)


def test_another_model_takes_all_hyper_parameters_from_seal():
    tiny, other = resolve(load_config(QUICKSTART)), resolve(load_config(QUICKSTART, {"model": "some/model"}))
    kept = {"contexts", "edits", "evaluation.contexts"}  # how much to do, which the config file sets
    for name, value in PRESETS["seal"].items():
        found, embedded = other, tiny
        for part in name.split("."):
            found, embedded = found[part], embedded[part]
        if name not in kept:
            assert found == value and embedded == PRESETS["tiny"][name], name


def test_a_field_that_is_set_wins_over_the_preset_and_none_means_the_presets():
    assert resolve(load_config(QUICKSTART, {"inner.rank": "3"})).inner.rank == 3
    assert resolve(load_config(QUICKSTART, {"inner.rank": "None"})).inner.rank == PRESETS["tiny"]["inner.rank"]


def test_an_unknown_preset_is_an_error_that_lists_them():
    with pytest.raises(ValueError, match=r"config\.preset is 'sael'; it must be auto or one of seal, tiny"):
        resolve(load_config(QUICKSTART, {"preset": "sael"}))


def test_a_preset_is_of_the_configs_domain_and_auto_finds_it():
    config = experiment("arc")
    config.model = "some/model"
    assert resolve(config).preset == "seal_arc"
    config.model = "tiny_grids"
    assert resolve(config).preset == "tiny_arc" and resolve(config).inner.rank == PRESETS["tiny_arc"]["inner.rank"]
    config.preset = "seal"
    with pytest.raises(ValueError, match=r"config\.preset is 'seal'; it must be auto or one of seal_arc, tiny_arc"):
        resolve(config)
    with pytest.raises(
        ValueError, match=r"no domain 'arcs' \(there are knowledge, arc, instructions, weights_or_words\)"
    ):
        experiment("arcs")


def test_the_fields_of_a_domain_are_checked_against_a_workdir_with_its_own_defaults(tmp_path):
    config = resolve(experiment("arc"))
    save_config(tmp_path, config)
    saved = json.loads((tmp_path / "config.json").read_text())
    del saved["domain"]["lenient"]  # as if this field had not existed when the run began
    (tmp_path / "config.json").write_text(json.dumps(saved))
    check_workdir(tmp_path, config)


def test_update_checks_and_splits_its_targets():
    assert Update((), targets="q_proj,v_proj").targets == ("q_proj", "v_proj")
    assert Update((), targets="all-linear").targets == "all-linear"
    assert {field.name for field in dataclasses.fields(Update)} >= set(resolve(experiment()).inner)


@pytest.mark.parametrize(("default", "accepted"), [(True, True), (False, False)])
def test_a_field_that_the_program_gained_does_not_change_a_workdir_unless_it_is_set(tmp_path, default, accepted):
    config = resolve(load_config(QUICKSTART))
    save_config(tmp_path, config)
    saved = json.loads((tmp_path / "config.json").read_text())
    del saved["domain"]["padding"]  # as if this field had not existed when the run began
    (tmp_path / "config.json").write_text(json.dumps(saved))
    overrides = {} if default else {"domain.padding": "seal"}
    given = resolve(load_config(QUICKSTART, overrides))
    if accepted:
        check_workdir(tmp_path, given)
    else:
        with pytest.raises(ConfigError, match=r'config.domain.padding is "none" there and "seal" here'):
            check_workdir(tmp_path, given)


def test_a_resolved_config_resolves_to_itself():
    config = resolve(load_config(QUICKSTART))
    assert config_to_json(resolve(config)) == config_to_json(config)
