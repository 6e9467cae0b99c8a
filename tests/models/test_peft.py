"""PEFT and this package read each other's adapters and compute the same with them."""

import copy
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from selfadapt.models.lora import Adapters, Lora, Spec
from selfadapt.models.model import load_model
from selfadapt.models.peft import CONFIG, TENSORS, AdapterError, abstract_master, load_peft, merge, save_peft
from tests.models.helpers import tiny_checkpoint

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

TOKENS = np.random.default_rng(0).integers(0, 97, (2, 20))
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# What PEFT makes: name -> the options of its LoraConfig.
MADE = {
    "qv": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "all": {"r": 6, "lora_alpha": 3, "target_modules": "all-linear"},
    "regex": {"r": 2, "lora_alpha": 4, "target_modules": r".*\.(up|o)_proj"},
    "rslora": {"r": 9, "lora_alpha": 6, "target_modules": ["k_proj"], "use_rslora": True},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A torch model, ours, and for each entry of `MADE` a PEFT directory with the logits that PEFT gives."""
    directory = tmp_path_factory.mktemp("base")
    theirs = tiny_checkpoint("qwen2", directory)
    made = {}
    for seed, (name, options) in enumerate(MADE.items()):
        adapted = peft.get_peft_model(copy.deepcopy(theirs), peft.LoraConfig(task_type="CAUSAL_LM", **options)).eval()
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter, weight in adapted.named_parameters():
                if "lora_" in parameter:
                    weight.normal_(std=0.2)
        adapted.save_pretrained(directory / name)
        made[name] = (directory / name, torch_logits(adapted))
    return theirs, load_model(directory), made


def torch_logits(model):
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.numpy()


def assert_close(ours, theirs):
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


def random_adapter(model, spec, seed=0, pad=0):
    """An adapter with random factors, padded with `pad` ranks of zeros as in a stack."""
    rng = np.random.default_rng(seed)
    shapes, layers = model.config.projections(), model.config.num_layers

    def padded(factor, axis):
        return np.pad(factor, [(0, pad if i == axis else 0) for i in range(4)]).astype(np.float32)

    return Adapters(
        Lora(
            a={t: padded(0.2 * rng.normal(size=(layers, 1, shapes[t][0], spec.rank)), 3) for t in spec.targets},
            b={t: padded(0.2 * rng.normal(size=(layers, 1, spec.rank, shapes[t][1])), 2) for t in spec.targets},
            scale=np.array([spec.output_scale], np.float32),
        ),
        (spec,),
    )


@pytest.mark.parametrize("name", MADE)
def test_an_adapter_of_pefts_gives_pefts_logits(base, name):
    _, ours, made = base
    adapter = load_peft(ours, made[name][0])
    assert len(adapter) == 1 and adapter.specs[0].rank == MADE[name]["r"]
    assert_close(ours.logits(TOKENS, adapter), made[name][1])
    assert np.abs(made[name][1] - np.asarray(ours.logits(TOKENS))).max() > 0.1


def test_adapters_of_different_ranks_and_targets_in_one_stack_give_each_its_own_logits(base):
    _, ours, made = base
    stack = load_peft(ours, [directory for directory, _ in made.values()])
    logits = ours.logits(np.stack([TOKENS] * len(stack)), stack)
    assert len(stack) == len(MADE) and [spec.rank for spec in stack.specs] == [4, 6, 2, 9]
    for k, (_, wanted) in enumerate(made.values()):
        assert_close(logits[k], wanted)
        assert_close(ours.logits(TOKENS, stack[k]), wanted)


@pytest.mark.parametrize(
    "spec",
    [Spec(4, 8, ("q_proj", "v_proj")), Spec(3, 5.0, tuple(ALL)), Spec(4, 8, ("o_proj",), scale=0.7)],
    ids=["qv", "all-linear", "own scale"],
)
def test_peft_loads_our_adapters_with_equal_logits(base, tmp_path, spec):
    theirs, ours, _ = base
    adapter = random_adapter(ours, spec, pad=3)
    save_peft(adapter, tmp_path, base="someone/base")
    adapted = peft.PeftModel.from_pretrained(copy.deepcopy(theirs), tmp_path).eval()
    assert adapted.peft_config["default"].base_model_name_or_path == "someone/base"
    assert_close(ours.logits(TOKENS, adapter), torch_logits(adapted))


def test_a_member_of_a_stack_is_saved_with_its_own_rank_and_targets(base, tmp_path):
    _, ours, made = base
    stack = load_peft(ours, [made["all"][0], made["qv"][0]])
    save_peft(stack[1], tmp_path)
    saved, made_by_peft = (safetensors.numpy.load_file(path / TENSORS) for path in (tmp_path, made["qv"][0]))
    assert saved.keys() == made_by_peft.keys()
    for name in saved:
        np.testing.assert_array_equal(saved[name], made_by_peft[name])
    with pytest.raises(ValueError, match="2 adapters"):
        save_peft(stack, tmp_path)


def test_a_merged_model_computes_what_the_adapted_one_does(base, tmp_path):
    _, ours, made = base
    before = jax.tree.map(np.asarray, ours.params)
    for directory, wanted in made.values():
        merged = merge(ours, load_peft(ours, directory))
        assert_close(merged.logits(TOKENS), wanted)
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, ours.params))
    merged.save(tmp_path)
    assert_close(load_model(tmp_path).logits(TOKENS), wanted)


def scaled(adapter, factor):
    return dataclasses.replace(adapter, lora=adapter.lora.replace(scale=adapter.lora.scale * factor))


def test_small_merges_into_bfloat16_add_up_in_the_master_and_are_lost_without(base, tmp_path):
    _, ours, made = base
    ours.save(tmp_path)
    model = load_model(tmp_path, dtype="bfloat16")
    adapter, factor = load_peft(model, made["qv"][0]), 2**-10  # a step is about 1.5e-4, half a bfloat16 unit 5e-4
    with_master = without = model
    for _ in range(20):
        with_master = merge(with_master, scaled(adapter, factor), keep_master=True)
        without = merge(without, scaled(adapter, factor))
    at_once = merge(model, scaled(adapter, 20 * factor), keep_master=True)
    assert model.master is None and without.master is None
    assert sorted(with_master.master) == ["q_proj", "v_proj"]

    def change(model, name):
        return np.asarray(model.params["layers"][name], np.float32) - before

    for name, exact in with_master.master.items():
        before, weights = np.asarray(model.params["layers"][name], np.float32), with_master.params["layers"][name]
        assert exact.dtype == np.float32 and weights.dtype == jnp.bfloat16
        np.testing.assert_allclose(exact, at_once.master[name], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(weights, exact.astype(jnp.bfloat16))
        wanted = np.asarray(at_once.master[name]) - before
        assert np.linalg.norm(change(with_master, name) - wanted) < 0.15 * np.linalg.norm(wanted)
        assert np.linalg.norm(change(without, name) - wanted) > 0.5 * np.linalg.norm(wanted)


def test_a_master_grows_with_the_projections_that_are_merged_and_is_described_without_its_arrays(base, tmp_path):
    _, ours, made = base
    ours.save(tmp_path)
    model = load_model(tmp_path, dtype="bfloat16")
    once = merge(model, load_peft(model, made["qv"][0]), keep_master=True)
    twice = merge(once, load_peft(model, made["rslora"][0]))  # a model that has a master keeps it
    assert sorted(twice.master) == ["k_proj", "q_proj", "v_proj"]
    np.testing.assert_array_equal(twice.master["q_proj"], once.master["q_proj"])
    like = abstract_master(model, ["q_proj", "k_proj", "v_proj"])
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), twice.master) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), like
    )
    assert merge(ours, load_peft(ours, made["qv"][0]), keep_master=True).master is None  # float32 needs none


def test_tokens_must_have_a_row_of_adapters_for_a_stack(base):
    _, ours, made = base
    stack = load_peft(ours, [made["qv"][0]] * 2)
    with pytest.raises(ValueError, match=r"\[2, rows, time\]"):
        ours.logits(TOKENS, stack)
    with pytest.raises(ValueError, match=r"\[2, rows, time\]"):
        ours.logits(np.stack([TOKENS] * 3), stack)
    assert ours.logits(TOKENS[None], stack[0]).shape == (1, 2, 20, 97)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_hidden_layers": 4}, ["model.layers.3."]),
        ({"num_hidden_layers": 2}, ["model.layers.2."]),
        ({"hidden_size": 32}, ["q_proj.lora_A.weight", "(4, 32)", "(4, 64)"]),
        ({"num_key_value_heads": 4}, ["v_proj.lora_B.weight", "(64, 4)", "(32, 4)"]),
    ],
    ids=["more layers", "fewer layers", "another width", "other heads"],
)
def test_an_adapter_of_another_base_is_refused_by_name_and_shape(base, tmp_path, changes, expected):
    _, ours, made = base
    tiny_checkpoint("qwen2", tmp_path / "base", **changes)
    other = load_model(tmp_path / "base")
    save_peft(random_adapter(other, Spec(4, 8, ("q_proj", "v_proj"))), tmp_path / "adapter")
    with pytest.raises(AdapterError, match="another base") as error:
        load_peft(ours, tmp_path / "adapter")
    assert all(text in str(error.value) for text in expected)
    adapter = load_peft(ours, made["qv"][0])
    with pytest.raises(ValueError, match="another base"):
        other.logits(TOKENS, adapter)
    with pytest.raises(ValueError, match="another base"):
        merge(other, adapter)


@pytest.fixture
def directory(base, tmp_path):
    _, ours, _ = base
    save_peft(random_adapter(ours, Spec(4, 8, ("q_proj", "v_proj"))), tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("peft_type", "IA3"),
        ("use_dora", True),
        ("bias", "all"),
        ("modules_to_save", ["lm_head"]),
        ("layers_to_transform", [0]),
        ("rank_pattern", {"q_proj": 8}),
        ("alpha_pattern", {"q_proj": 8}),
        ("fan_in_fan_out", True),
        ("init_lora_weights", "pissa"),
        ("trainable_token_indices", [1]),
        ("target_modules", ["q_proj", "lm_head"]),
        ("target_modules", "nothing.*"),
        ("target_modules", "("),
        ("target_modules", r"model\.layers\.0\..*q_proj"),
        ("target_modules", None),
        ("r", 0),
        ("lora_alpha", "big"),
        ("an_option_of_tomorrow", True),
    ],
)
def test_options_that_are_not_supported_are_named(base, directory, field, value):
    raw = json.loads((directory / CONFIG).read_text())
    (directory / CONFIG).write_text(json.dumps(raw | {field: value}))
    with pytest.raises(AdapterError) as error:
        load_peft(base[1], directory)
    assert field in str(error.value) and str(directory) in str(error.value)


def test_incomplete_adapters_are_refused(base, directory):
    _, ours, _ = base
    tensors = safetensors.numpy.load_file(directory / TENSORS)
    name = next(name for name in tensors if "layers.1." in name)
    kept = {other: tensor for other, tensor in tensors.items() if other != name}
    safetensors.numpy.save_file(kept, directory / TENSORS)
    with pytest.raises(AdapterError, match=name):
        load_peft(ours, directory)
    safetensors.numpy.save_file(tensors, directory / TENSORS)
    (directory / TENSORS).write_bytes((directory / TENSORS).read_bytes()[:-10])
    with pytest.raises(ValueError, match="truncated"):
        load_peft(ours, directory)
    (directory / TENSORS).rename(directory / "adapter_model.bin")
    with pytest.raises(AdapterError, match="pickle"):
        load_peft(ours, directory)
    (directory / "adapter_model.bin").unlink()
    with pytest.raises(AdapterError, match=TENSORS):
        load_peft(ours, directory)
    with pytest.raises(AdapterError, match="no directory"):
        load_peft(ours, directory / "absent")
    with pytest.raises(ValueError, match="no adapter directories"):
        load_peft(ours, [])
