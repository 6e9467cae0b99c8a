"""`config.json` in its old and its new form is read as `transformers` reads it, or refused."""

import pytest

from selfadapt.models.config import ConfigError, ModelConfig, RopeScaling, UnsupportedModelError

LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def raw(family="llama", **changes):
    fields = {
        "model_type": family,
        "vocab_size": 100,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return fields | changes


def read(family="llama", **changes):
    return ModelConfig.from_json(raw(family, **changes), source="here/config.json")


def test_old_and_new_rope_fields_mean_the_same():
    old = read(rope_theta=500000.0, rope_scaling=LLAMA3 | {"rope_type": "llama3"})
    older = read(rope_theta=500000.0, rope_scaling=LLAMA3 | {"type": "llama3"})
    new = read(rope_parameters=LLAMA3 | {"rope_type": "llama3", "rope_theta": 500000.0})
    assert old == older == new
    assert new.rope_theta == 500000.0
    assert new.rope_scaling == RopeScaling(8.0, 1.0, 4.0, 8192)


def test_null_rope_scaling_means_none():
    assert read(rope_scaling=None).rope_scaling is None
    assert read(rope_parameters={"rope_type": "default", "rope_theta": 1e6}).rope_theta == 1e6


def test_a_null_head_dim_is_derived_and_an_absent_one_is_the_familys():
    assert read(head_dim=None).head_dim == 16
    assert read("qwen3").head_dim == 128
    assert read("qwen3", head_dim=24).head_dim == 24


def test_mistrals_window_is_4096_unless_the_file_sets_another():
    assert read("mistral").windows == (4096,) * 4
    assert read("mistral", sliding_window=7).windows == (7,) * 4
    assert read("mistral", sliding_window=None).windows is None


def test_qwens_window_counts_only_when_it_is_switched_on():
    assert read("qwen2", sliding_window=7, max_window_layers=2).windows is None
    assert read("qwen2", use_sliding_window=True, sliding_window=7, max_window_layers=2).windows == (0, 0, 7, 7)
    assert read("qwen2", use_sliding_window=True, sliding_window=7).windows is None  # max_window_layers is 28
    kinds = ["sliding_attention", "full_attention"] * 2
    assert read("qwen3", use_sliding_window=True, sliding_window=7, layer_types=kinds).windows == (7, 0, 7, 0)


def test_biases_follow_the_family():
    assert read("qwen2").qkv_bias and not read("qwen2").output_bias
    assert not read("mistral", attention_bias=True).qkv_bias  # transformers' Mistral has none, independent of the field
    assert read("qwen3", attention_bias=True).output_bias
    assert read("llama", mlp_bias=True).mlp_bias


def test_end_tokens_come_from_the_generation_config_first():
    fields = raw(eos_token_id=5)
    assert ModelConfig.from_json(fields).eos_token_ids == (5,)
    assert ModelConfig.from_json(fields, generation={"eos_token_id": [7, 8]}).eos_token_ids == (7, 8)
    assert ModelConfig.from_json(fields, generation={"eos_token_id": None}).eos_token_ids == (5,)
    assert read("qwen2").eos_token_ids == ()
    assert read(eos_token_id=0).eos_token_ids == (0,)


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [
        ("gpt2", "model_type", "gpt2"),
        ("qwen2_moe", "model_type", "qwen2_moe"),
        ("llama", "architectures", ["LlamaForSequenceClassification"]),
        ("llama", "hidden_act", "gelu"),
        ("llama", "rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
        ("llama", "rope_scaling", {"type": "linear", "factor": 2.0}),
        ("llama", "rope_parameters", {"full_attention": {"rope_type": "default"}}),
        ("llama", "partial_rotary_factor", 0.5),
        ("llama", "quantization_config", {"quant_method": "gptq"}),
        ("mistral", "layer_types", ["full_attention", "sliding_attention"] * 2),
        ("qwen2", "layer_types", ["chunked_attention"] * 4),
    ],
)
def test_what_is_not_supported_is_named_with_what_is(family, field, value):
    with pytest.raises(UnsupportedModelError) as error:
        read(family, **{field: value} if field != "model_type" else {})
    assert "here/config.json" in str(error.value) and field in str(error.value) and "support" in str(error.value)


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [
        ("llama", "hidden_size", "64"),
        ("llama", "num_key_value_heads", 3),
        ("llama", "tie_word_embeddings", "yes"),
        ("llama", "eos_token_id", "</s>"),
        ("llama", "rms_norm_eps", -1.0),
        ("llama", "head_dim", 15),
        ("llama", "rope_scaling", {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}),
        ("mistral", "sliding_window", 0),
        ("qwen2", "layer_types", ["sliding_attention"] * 4),
        ("qwen2", "max_window_layers", "2"),
    ],
)
def test_a_field_that_makes_no_sense_is_named(family, field, value):
    with pytest.raises(ConfigError, match="here/config.json") as error:
        read(family, **({"use_sliding_window": True} if field == "max_window_layers" else {}), **{field: value})
    assert field in str(error.value)


def test_a_missing_field_is_named():
    fields = raw()
    del fields["intermediate_size"]
    with pytest.raises(ConfigError, match="intermediate_size is missing"):
        ModelConfig.from_json(fields)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_what_is_written_is_read_back(family):
    config = read(family, eos_token_id=[3, 4], rope_scaling=LLAMA3 | {"rope_type": "llama3"})
    assert ModelConfig.from_json(config.to_json()) == config


def test_defaults_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    for family in ("llama", "mistral", "qwen2", "qwen3"):
        theirs = transformers.CONFIG_MAPPING[family]()
        bare = {
            field: getattr(theirs, field)
            for field in (
                "vocab_size",
                "hidden_size",
                "intermediate_size",
                "num_hidden_layers",
                "num_attention_heads",
            )
        }
        ours = ModelConfig.from_json({"model_type": family, **bare})
        assert ours.num_kv_heads == theirs.num_key_value_heads
        assert ours.head_dim == (getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads)
        assert ours.max_position_embeddings == theirs.max_position_embeddings
        assert ours.rms_norm_eps == theirs.rms_norm_eps
        assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
        assert ours.tie_word_embeddings == theirs.tie_word_embeddings
        assert ours.bos_token_id == theirs.bos_token_id
        assert ours.eos_token_ids == (() if theirs.eos_token_id is None else (theirs.eos_token_id,))
        assert (ours.windows is not None) == (family == "mistral")
