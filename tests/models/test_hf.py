"""Checkpoints in and out: every layout of files is read, and what cannot be is named."""

import json
import resource
import shutil
import signal
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from selfadapt.models import hf
from selfadapt.models.config import UnsupportedModelError
from selfadapt.models.model import Model, load_model
from tests.models.helpers import tiny_checkpoint

torch = pytest.importorskip("torch")

Q0 = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """One untied Qwen2 checkpoint with a tokenizer, not to be changed."""
    directory = tmp_path_factory.mktemp("checkpoint")
    tiny_checkpoint("qwen2", directory, tokenizer=True)
    return directory


@pytest.fixture
def checkpoint(kept, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(kept, tmp_path / "checkpoint")


def tensors(directory):
    return safetensors.numpy.load_file(directory / hf.SINGLE)


def rewrite(directory, *, drop=(), **changes):
    new = {name: tensor for name, tensor in tensors(directory).items() if name not in drop}
    new |= {name: np.ascontiguousarray(tensor) for name, tensor in changes.items()}
    safetensors.numpy.save_file(new, directory / hf.SINGLE)


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def assert_same_params(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(np.asarray(left), np.asarray(right))


def test_saving_gives_the_same_tensors_and_files(kept, tmp_path):
    load_model(kept).save(tmp_path)
    before, after = tensors(kept), tensors(tmp_path)
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads((kept / "config.json").read_text())
    assert (tmp_path / "generation_config.json").exists() == (kept / "generation_config.json").exists()
    assert load_model(tmp_path).tokenizer.encode("abc") == load_model(kept).tokenizer.encode("abc")


def test_shards_with_an_index_are_read_as_one_file(kept, tmp_path):
    import transformers

    theirs = transformers.AutoModelForCausalLM.from_pretrained(kept, dtype=torch.float32)
    theirs.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert_same_params(load_model(tmp_path).params, load_model(kept).params)


def test_a_large_model_is_saved_in_shards_and_replaces_what_was_there(kept, tmp_path):
    model = load_model(kept)
    model.save(tmp_path)
    hf.save_params(model.params, model.config, tmp_path, shard_bytes=100_000)
    shards = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(shards) > 1 and hf.SINGLE not in shards
    index = json.loads((tmp_path / hf.INDEX).read_text())
    assert sorted(set(index["weight_map"].values())) == shards
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors(kept).values())
    assert_same_params(load_model(tmp_path).params, model.params)
    hf.save_params(model.params, model.config, tmp_path)
    assert [path.name for path in tmp_path.glob("model*")] == [hf.SINGLE]


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_half_precision_files_are_converted(kept, checkpoint, stored):
    halves = {name: tensor.astype(np.dtype(stored)) for name, tensor in tensors(kept).items()}
    safetensors.numpy.save_file(halves, checkpoint / hf.SINGLE)
    wide = load_model(checkpoint).params["layers"]["k_proj"]
    np.testing.assert_array_equal(np.asarray(wide)[0], halves[Q0.replace("q_proj", "k_proj")].astype(np.float32).T)
    narrow = load_model(checkpoint, dtype="bfloat16").params["norm"]
    np.testing.assert_array_equal(np.asarray(narrow), halves["model.norm.weight"].astype(ml_dtypes.bfloat16))


def test_a_bfloat16_model_is_saved_as_such(kept, tmp_path):
    model = load_model(kept, dtype="bfloat16")
    model.save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    with safetensors.safe_open(tmp_path / hf.SINGLE, "numpy") as handle:
        assert handle.get_slice(Q0).get_dtype() == "BF16"
    assert_same_params(load_model(tmp_path, dtype="bfloat16").params, model.params)


def test_tensors_larger_than_a_piece_are_read_in_pieces(kept, monkeypatch):
    expected = load_model(kept).params
    monkeypatch.setattr(hf, "PIECE_BYTES", 7 * 64 * 4)
    assert_same_params(load_model(kept).params, expected)


def test_a_head_stored_though_tied_is_accepted_when_it_is_the_embedding(tmp_path):
    tiny_checkpoint("qwen2-tied", tmp_path)
    params = load_model(tmp_path).params
    embedding = tensors(tmp_path)[hf.EMBEDDING]
    rewrite(tmp_path, **{hf.HEAD: embedding})
    assert_same_params(load_model(tmp_path).params, params)
    rewrite(tmp_path, drop=(hf.EMBEDDING,))
    assert_same_params(load_model(tmp_path).params, params)
    rewrite(tmp_path, **{hf.HEAD: embedding + 1, hf.EMBEDDING: embedding})
    with pytest.raises(hf.CheckpointError, match="lm_head.weight differs.*tie_word_embeddings"):
        load_model(tmp_path)


def test_rotary_buffers_of_old_checkpoints_are_ignored(checkpoint):
    rewrite(checkpoint, **{"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32)})
    load_model(checkpoint)


def refusal(checkpoint, error=hf.CheckpointError):
    with pytest.raises(error) as caught:
        load_model(checkpoint)
    return str(caught.value)


def test_a_missing_tensor_is_named(checkpoint):
    rewrite(checkpoint, drop=(Q0,))
    assert Q0 in refusal(checkpoint)
    rewrite(checkpoint, drop=(hf.HEAD,), **{Q0: np.zeros((64, 64), np.float32)})
    assert "tie_word_embeddings" in refusal(checkpoint)


def test_an_unexpected_tensor_is_named(checkpoint):
    rewrite(checkpoint, **{"model.layers.0.self_attn.o_proj.bias": np.zeros(64, np.float32)})
    assert "model.layers.0.self_attn.o_proj.bias" in refusal(checkpoint)


def test_a_mis_shaped_tensor_is_named_with_both_shapes(checkpoint):
    rewrite(checkpoint, **{Q0: np.zeros((64, 32), np.float32)})
    message = refusal(checkpoint)
    assert Q0 in message and "(64, 32)" in message and "(64, 64)" in message


def test_quantised_tensors_are_refused(checkpoint):
    rewrite(checkpoint, **{Q0: np.zeros((64, 64), np.int8)})
    message = refusal(checkpoint)
    assert Q0 in message and "I8" in message and "BF16" in message


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 64, None], ids=["empty", "short", "garbage", "truncated"])
def test_a_damaged_file_is_named(checkpoint, content):
    file = checkpoint / hf.SINGLE
    file.write_bytes(file.read_bytes()[:-100] if content is None else content)
    message = refusal(checkpoint)
    assert str(file) in message and "truncated" in message


def shard(directory, **weight_map):
    (directory / hf.SINGLE).rename(directory / "model-00001-of-00001.safetensors")
    names = dict.fromkeys(safetensors.numpy.load_file(directory / "model-00001-of-00001.safetensors"))
    mapping = dict.fromkeys(names, "model-00001-of-00001.safetensors") | weight_map
    (directory / hf.INDEX).write_text(json.dumps({"weight_map": mapping}))


def test_an_absent_shard_is_named(checkpoint):
    shard(checkpoint, **{Q0: "model-00002-of-00002.safetensors"})
    message = refusal(checkpoint)
    assert "model-00002-of-00002.safetensors" in message and hf.INDEX in message


def test_an_index_that_promises_too_much_is_refused(checkpoint):
    shard(checkpoint)
    index = json.loads((checkpoint / hf.INDEX).read_text())
    file = checkpoint / "model-00001-of-00001.safetensors"
    rest = {name: tensor for name, tensor in safetensors.numpy.load_file(file).items() if name != Q0}
    safetensors.numpy.save_file(rest, file)
    assert Q0 in refusal(checkpoint)
    index["weight_map"][Q0] = "../elsewhere.safetensors"
    (checkpoint / hf.INDEX).write_text(json.dumps(index))
    assert "../elsewhere.safetensors" in refusal(checkpoint)
    (checkpoint / hf.INDEX).write_text("{}")
    assert "weight_map" in refusal(checkpoint)


def test_pickled_weights_are_refused(checkpoint):
    (checkpoint / hf.SINGLE).rename(checkpoint / "pytorch_model.bin")
    message = refusal(checkpoint)
    assert "pytorch_model.bin" in message and "pickle" in message


def test_directories_without_a_model_are_refused(checkpoint, tmp_path):
    (checkpoint / hf.SINGLE).unlink()
    assert "no weights" in refusal(checkpoint)
    (checkpoint / "config.json").write_text("{")
    assert "not valid JSON" in refusal(checkpoint)
    (checkpoint / "config.json").unlink()
    assert "config.json" in refusal(checkpoint)
    assert "not the id of a model" in refusal(tmp_path / "absent")


def test_no_code_of_a_checkpoint_is_run(checkpoint, tmp_path):
    (checkpoint / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    edit_json(checkpoint / "config.json", auto_map={"AutoModelForCausalLM": "evil.Evil"})
    edit_json(checkpoint / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]})
    assert load_model(checkpoint).tokenizer.encode("a")
    assert not (tmp_path / "ran").exists()
    edit_json(checkpoint / "config.json", architectures=["EvilForCausalLM"])
    assert "EvilForCausalLM" in refusal(checkpoint, UnsupportedModelError)


def test_a_hub_id_downloads_neither_pickles_nor_code(kept, monkeypatch):
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    files = ["config.json", "model-00001-of-00002.safetensors", hf.INDEX, "tokenizer.json", "merges.txt"]
    refused = ["pytorch_model.bin", "evil.py", "consolidated.safetensors", "original/params.json", "x.pth", "x.gguf"]

    def download(repo_id, allow_patterns, ignore_patterns):
        assert repo_id == "someone/model"
        chosen = filter_repo_objects(files + refused, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
        assert sorted(chosen) == sorted(files)
        return str(kept)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    model = load_model("someone/model")
    assert model.name == "someone/model" and model.tokenizer.encode("a")


def test_a_hub_that_does_not_answer_is_said_plainly(monkeypatch):
    import huggingface_hub

    def download(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    message = refusal("someone/modle")
    assert "someone/modle" in message and "no network" in message


def test_a_model_may_have_no_tokenizer_but_not_a_damaged_one(checkpoint):
    (checkpoint / "tokenizer.json").write_text("{")
    with pytest.raises(hf.CheckpointError, match="tokenizer in"):
        _ = load_model(checkpoint).tokenizer
    for file in checkpoint.glob("tokenizer*"):
        file.unlink()
    model = load_model(checkpoint)
    assert model.tokenizer is None
    assert Model(model.config, model.params).tokenizer is None


def test_a_random_model_depends_on_its_seed_alone_and_can_be_saved(kept, tmp_path):
    config = load_model(kept).config
    model = Model.random(config, seed=1, dtype="bfloat16")
    assert_same_params(model.params, Model.random(config, seed=1, dtype="bfloat16").params)
    different = Model.random(config, seed=2, dtype="bfloat16").params["embed_tokens"]
    assert not np.array_equal(np.asarray(model.params["embed_tokens"]), np.asarray(different))
    model.save(tmp_path)
    again = load_model(tmp_path, dtype="bfloat16")
    assert again.config == config
    assert_same_params(again.params, model.params)


def test_an_unknown_dtype_is_refused(kept):
    with pytest.raises(ValueError, match="float32, bfloat16"):
        load_model(kept, dtype="float16")


def test_a_disk_that_is_full_leaves_no_half_written_file(kept, tmp_path):
    model = load_model(kept)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limit[1]))
    try:
        with pytest.raises(OSError, match=hf.SINGLE):
            hf.save_params(model.params, model.config, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list(tmp_path.iterdir())


def test_wrong_tokens_are_refused(kept):
    model = load_model(kept)
    with pytest.raises(ValueError, match="vocabulary has 97"):
        model.logits([[1, 97]])
    with pytest.raises(ValueError, match="whole numbers"):
        model.logits([[0.5]])
    with pytest.raises(ValueError, match=r"\[rows, time\]"):
        model.logits([1, 2])


MEASURE = """
import sys, threading
from pathlib import Path
import jax.numpy as jnp
from selfadapt.models import hf
from selfadapt.models.config import ModelConfig

def resident():  # bytes; RssAnon counts the resident pages that are no file's
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) * 1024

directory = Path(sys.argv[1])
config = ModelConfig.from_json(hf.read_json(directory / "config.json"))
hf._write(jnp.zeros((2, 2)), jnp.zeros(2), (0, 0), transpose=False)  # starts the compiler
before, peak, done = resident(), 0, threading.Event()

def watch():
    global peak
    while not done.wait(0.001):
        peak = max(peak, resident())

watcher = threading.Thread(target=watch)
watcher.start()
params = hf.load_params(directory, config, jnp.float32)
done.set()
watcher.join()
print(peak - before, resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_loading_holds_the_model_once_plus_one_tensor(tmp_path):
    model = tiny_checkpoint(
        "qwen2", tmp_path, vocab_size=16000, hidden_size=768, intermediate_size=2048, num_hidden_layers=6
    )
    size = sum(weight.numel() * 4 for weight in model.parameters())
    largest = max(weight.numel() * 4 for weight in model.parameters())
    del model
    out = subprocess.run([sys.executable, "-c", MEASURE, tmp_path], capture_output=True, text=True, check=True)
    grown, of_it_kept = (int(number) for number in out.stdout.split())
    # What is neither weights nor a tensor in flight is the compiler's: about 30 MB.
    assert grown < size + 1.2 * largest, f"{grown} bytes of which {of_it_kept} stay, for a model of {size}"
