"""Tests of config loading, overrides and the tie between a config and its workdir."""

import json

import pytest

from selfadapt.config import ConfigError, check_workdir, config_to_json, load_config, save_config, shipped_configs

CONFIG = """
import ml_collections
from ml_collections import config_dict

def get_config(size="small"):
    return ml_collections.ConfigDict(dict(
        seed=0, rounds=2, shuffle_rewards=False, model="embedded", size=size, rate=1e-3,
        targets=("q_proj", "v_proj"), meshes=[1, 2], start=None,
        clip=config_dict.FieldReference(1.0, field_type=float), limit=config_dict.placeholder(int),
        data=dict(path="world", skip=0),
    ))
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    return path


def overridden(file, **overrides):
    return load_config(file, {name.replace("__", "."): value for name, value in overrides.items()})


def test_a_config_file_is_executed(file):
    config = load_config(file)
    assert config.rounds == 2 and config.size == "small" and config.is_locked


def test_an_argument_after_a_colon_reaches_get_config(file):
    assert load_config(f"{file}:large").size == "large"


@pytest.mark.parametrize("name", shipped_configs())
def test_a_shipped_config_is_found_by_its_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir(parents=True)  # a directory of that name is not a config file
    assert load_config(name).is_locked


def test_a_file_goes_before_a_shipped_config_of_its_name(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file.rename(tmp_path / "quickstart")
    with pytest.raises(ConfigError, match="quickstart is not a Python file"):
        load_config("quickstart")


@pytest.mark.parametrize(
    "name, near",
    [
        ("quikstart", "quickstart"),
        ("configs/quickstart.py", "quickstart"),
        ("knowledge_qwen2p5_7b", "seal/paper/knowledge_qwen2p5_7b"),
        ("seal/paper/knowledge_qwen2.5_7b:argument", "seal/paper/knowledge_qwen2p5_7b"),
    ],
)
def test_an_unknown_name_of_a_config_is_an_error_with_the_nearest_and_all(name, near, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"Did you mean --config={near}[? ].*names: {', '.join(shipped_configs())}"):
        load_config(name)


@pytest.mark.parametrize(
    "field, text, value",
    [
        ("rounds", "3", 3),
        ("rate", "5e-4", 5e-4),
        ("rate", "1", 1.0),
        ("shuffle_rewards", "true", True),
        ("shuffle_rewards", "No", False),
        ("model", "3", "3"),
        ("model", "None", "None"),
        ("targets", "k_proj,o_proj", ("k_proj", "o_proj")),
        ("targets", "('k_proj',)", ("k_proj",)),
        ("targets", "(k_proj)", ("k_proj",)),
        ("targets", "3", ("3",)),
        ("meshes", "[4, 2, 1]", [4, 2, 1]),
        ("meshes", "", []),
        ("start", "7", 7),
        ("start", "a/path", "a/path"),
        ("clip", "none", None),
        ("clip", "2", 2.0),
        ("limit", "5", 5),
        ("limit", "None", None),
        ("data.path", "squad=val.json", "squad=val.json"),
    ],
)
def test_an_override_takes_the_type_of_its_field(file, field, text, value):
    got = load_config(file, {field: text})
    for part in field.split("."):
        got = got[part]
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize(
    "field, text, expected",
    [
        ("rounds", "many", "a whole number"),
        ("rounds", "2.5", "a whole number"),
        ("rounds", "None", "a whole number"),
        ("rate", "fast", "a number"),
        ("shuffle_rewards", "maybe", "true or false"),
        ("meshes", "1,two", "each item a whole number"),
        ("limit", "x", "a whole number or None"),
    ],
)
def test_a_wrong_type_names_field_value_and_expected_type(file, field, text, expected):
    with pytest.raises(ConfigError) as error:
        load_config(file, {field: text})
    assert f"config.{field}" in str(error.value) and repr(text) in str(error.value) and expected in str(error.value)


@pytest.mark.parametrize(
    "typed, meant",
    [
        ("ronuds", "rounds"),
        ("data.pth", "data.path"),
        ("dta.path", "data.path"),
        ("path", "data.path"),
        ("pahts", "data.path"),
        ("data.seed", "seed"),
    ],
)
def test_a_misspelt_field_suggests_the_nearest_at_any_depth(file, typed, meant):
    with pytest.raises(ConfigError, match=rf"config\.{typed} does not exist. Did you mean config\.{meant}\?"):
        load_config(file, {typed: "1"})


def test_an_unknown_field_lists_what_there_is_in_its_group(file):
    with pytest.raises(ConfigError, match=r"There are: config\.data\.path, config\.data\.skip$"):
        load_config(file, {"data.zzzzzz": "1"})
    with pytest.raises(ConfigError, match=r"config\.clip, config\.data\.\*, .*config\.targets"):
        load_config(file, {"zzzzzz": "1"})


def test_a_group_cannot_be_set_and_a_field_has_no_fields(file):
    with pytest.raises(ConfigError, match="config.data is a group of fields; set one of them: config.data.path"):
        load_config(file, {"data": "1"})
    with pytest.raises(ConfigError, match="config.seed is a field, not a group"):
        load_config(file, {"seed.x": "1"})


@pytest.mark.parametrize(
    "source, message",
    [
        ("x = 1", r"does not define get_config\(\)"),
        ("def get_config(): return {}", r"returned a dict; it must return an ml_collections.ConfigDict"),
        ("\n\nraise RuntimeError('no\\nluck')", "failed at line 3: RuntimeError: no luck"),
        ("def get_config():\n  return 1 / 0", "failed at line 2: ZeroDivisionError"),
        ("def get_config(:", "failed at line 1: SyntaxError"),
        ("def get_config(name): return name", "does not take no argument; write --config=.*:ARGUMENT"),
    ],
)
def test_a_broken_config_file_is_named_with_the_fault(tmp_path, source, message):
    (tmp_path / "broken.py").write_text(source)
    with pytest.raises(ConfigError, match=message) as error:
        load_config(tmp_path / "broken.py")
    assert "broken.py" in str(error.value)


def test_a_missing_config_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="there is no config file .*absent.py"):
        load_config(tmp_path / "absent.py")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ConfigError, match="is not a Python file"):
        load_config(tmp_path / "notes.txt")


def test_a_saved_config_is_json_with_lists_and_nulls(file, tmp_path):
    path = save_config(tmp_path / "runs" / "a", load_config(file))
    saved = json.loads(path.read_text())
    assert saved["targets"] == ["q_proj", "v_proj"] and saved["limit"] is None and saved["data"]["path"] == "world"


def test_a_field_that_json_cannot_hold_is_named(tmp_path):
    (tmp_path / "c.py").write_text(
        "import ml_collections\ndef get_config(): return ml_collections.ConfigDict({'a': {'f': print}})"
    )
    with pytest.raises(ConfigError, match=r"config\.a\.f holds a builtin_function_or_method"):
        config_to_json(load_config(tmp_path / "c.py"))


def test_the_same_config_may_use_its_workdir_again(file, tmp_path):
    config = load_config(file)
    check_workdir(tmp_path / "new", config)
    save_config(tmp_path / "new", config)
    check_workdir(tmp_path / "new", load_config(file))


def test_a_workdir_of_another_experiment_names_the_differing_fields(file, tmp_path):
    save_config(tmp_path / "run", load_config(file))
    other = load_config(file, {"rounds": "5", "data.path": "squad.json"})
    with pytest.raises(ConfigError) as error:
        check_workdir(tmp_path / "run", other)
    assert "config.rounds is 2 there and 5 here" in str(error.value)
    assert 'config.data.path is "world" there and "squad.json" here' in str(error.value)


def test_a_field_that_only_one_side_has_counts_as_different(file, tmp_path):
    path = save_config(tmp_path / "run", load_config(file))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"old": 1}))
    with pytest.raises(ConfigError, match=r"config\.old is 1 there and absent here"):
        check_workdir(tmp_path / "run", load_config(file))


def test_an_unreadable_workdir_is_refused(file, tmp_path):
    with pytest.raises(ConfigError, match="is a file; name a directory"):
        check_workdir(file, load_config(file))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        check_workdir(tmp_path, load_config(file))
