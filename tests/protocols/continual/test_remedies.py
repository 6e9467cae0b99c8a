"""Remedies for forgetting: their updates, and a run of each against plain calls of the engine for every stream."""

import dataclasses
import itertools
import json
import pathlib
import sys

import jax
import pytest
from ml_collections import ConfigDict

from selfadapt import Update, adapt, generate, load_model, merge
from selfadapt.config import load_config
from selfadapt.defaults import resolve
from selfadapt.domains import make_domain
from selfadapt.domains.tiny import pretraining
from selfadapt.engine.adapt.schedule import optimizer_steps
from selfadapt.errors import UserError
from selfadapt.files import read_jsonl
from selfadapt.models.model import Model
from selfadapt.protocols.continual import make
from selfadapt.protocols.continual.anchors import read_anchors
from selfadapt.protocols.continual.remedies import REMEDIES, Condition, Material, sequences_learned
from selfadapt.protocols.continual.retrieval import generate_with
from selfadapt.protocols.run import evaluate
from selfadapt.types import Rejected
from tests.protocols.continual.test_protocol import SMALL
from tests.protocols.graders import Spelling
from tests.worlds import random_world_model

ROOT = pathlib.Path(__file__).parents[3]
FIELDS = ConfigDict({"rate_factor": 0.25, "replayed": 2, "orthogonality": 0.125, "divergence": 0.5, "anchor_rows": 3})

pytestmark = pytest.mark.usefixtures("one_stream")


@pytest.mark.parametrize("own, batch", [(1, 1), (5, 2), (7, 4), (16, 16), (3, 16)])
def test_replay_adds_earlier_sequences_and_no_optimizer_steps(own, batch):
    update = Update([f"new {number}" for number in range(own)], batch_size=batch, gradient_accumulation=2, epochs=3)
    earlier = [f"old {number}" for number in range(4)]
    replayed = REMEDIES["replay"].change(update, Material(earlier), FIELDS)
    assert replayed.sequences[:own] == update.sequences and len(replayed.sequences) == 3 * own
    old = replayed.sequences[own:]
    counts = [old.count(text) for text in earlier]
    assert sum(counts) == 2 * own and max(counts) - min(counts) <= 1
    assert len(optimizer_steps(replayed, 3 * own)) == len(optimizer_steps(update, own))
    assert replayed == REMEDIES["replay"].change(update, Material(earlier), FIELDS)  # drawn by the update's seed
    assert REMEDIES["replay"].change(update, Material(), FIELDS) == update


def test_a_remedy_changes_what_it_is_about_alone():
    update = Update(["new"], learning_rate=0.5)
    changed = {name: remedy.change(update, Material(["old"], ["anchor"]), FIELDS) for name, remedy in REMEDIES.items()}
    assert changed.pop("smaller") == update.replace(learning_rate=0.125)
    assert changed.pop("orthogonal") == update.replace(orthogonality=0.125)
    assert changed.pop("anchored") == update.replace(divergence=0.5, anchors=["anchor"], anchor_rows=3)
    assert changed.pop("replay") != update
    assert all(same == update for same in changed.values())


def test_only_edits_that_a_stream_has_learned_are_replayed():
    fine, other = Update(["one", "two"]), Update(["three"])
    applied = [[fine, other], [other, fine], [Rejected("not an edit"), other]]
    statuses = [["ok", "ok"], ["ok", "invalid: sequence 0 has 9000 tokens"], ["not an edit", "ok"]]
    assert sequences_learned(applied, statuses, 2) == [["one", "two", "three"], ["three", "three"]]
    assert sequences_learned([], [], 2) == [[], []]


class Mislabelled:
    """A domain that asks the questions of one passage about another, so that retrieval finds the wrong one."""

    def __init__(self, domain, labels):
        self._domain, self._labels = domain, labels

    def __getattr__(self, name):
        return getattr(self._domain, name)

    def questions(self, task, context):
        return self._domain.questions(self._labels.get(task.id, task), context)


@pytest.fixture(scope="module")
def small_config(tmp_path_factory):
    directory = random_world_model(tmp_path_factory.mktemp("world") / "model")

    def make_config(**changes):
        overrides = SMALL | {"model": str(directory)} | {k.replace("__", "."): v for k, v in changes.items()}
        return resolve(load_config(ROOT / "configs" / "seal" / "forgetting.py", overrides))

    return make_config


@dataclasses.dataclass
class Recorded:
    """Calls of the engine, in order: the updates and frozen adapters of `adapt`, and the choices of adapters."""

    trained: list = dataclasses.field(default_factory=list)
    chosen: list = dataclasses.field(default_factory=list)

    def adapt(self, model, updates, *, on, snapshots):
        self.trained.append((updates, on))
        return adapt(model, updates, on=on, snapshots=snapshots)

    def generate_with(self, model, adapters, prompts, chosen, **options):
        self.chosen.append((len(adapters), chosen))
        return generate_with(model, adapters, prompts, chosen, **options)


@pytest.fixture(scope="module")
def recorded():
    calls = Recorded()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("selfadapt.protocols.continual.steps.adapt", calls.adapt)
        patch.setattr("selfadapt.protocols.continual.retrieval.generate_with", calls.generate_with)
        yield calls


@pytest.fixture(scope="module")
def finished(small_config, recorded, tmp_path_factory):
    """A finished run of every remedy on the passages themselves: config, domain, streams, workdir and summary."""
    config = small_config(protocol__variants="none,passage", protocol__passages="2", inner__batch_size="1")
    domain = dataclasses.replace(make_domain(config, load_model(config.model)), grader=Spelling())
    streams = make(config, domain).streams
    first, second = streams[0].tasks
    domain = Mislabelled(domain, {second.id: first})
    workdir = tmp_path_factory.mktemp("run") / "whole"
    return config, domain, streams, workdir, evaluate(config, workdir, domain=domain)


def updates_of(config, domain, stream):
    """The updates of a stream's steps on its passages themselves."""
    return [
        domain.apply(task, None).replace(seed=stream.update_seed(config.seed, step))
        for step, task in enumerate(stream.tasks, start=1)
    ]


def held_by(config, model):
    """The fields of an update that holds a model near what it was before any edit."""
    fields = config.protocol
    anchors = read_anchors(config, model)
    return {"divergence": fields.divergence, "anchors": anchors, "anchor_rows": fields.anchor_rows}


def averaged(model, adapters):
    """The mean of models that each have one adapter in their weights."""
    parts = [merge(model, adapter).params for adapter in adapters]
    return Model(model.config, jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *parts), model.tokenizer)


@pytest.mark.slow
def test_every_remedy_answers_as_models_made_by_hand(finished):
    config, domain, streams, workdir, _ = finished
    model = load_model(config.model)
    options = dict(max_new_tokens=config.answer.max_new_tokens, stop=tuple(config.answer.stop))
    found = {(edit["variant"], edit["run"], edit["step"]): edit for edit in read_jsonl(workdir / "edits.jsonl")}
    texts = set()
    for stream in streams:
        one, two = updates_of(config, domain, stream)
        slow = {"learning_rate": one.learning_rate * config.protocol.rate_factor}
        first, apart = adapt(model, [one]), adapt(model, [two])
        merged = merge(model, first)
        once = merge(model, adapt(model, [one.replace(**slow)]))
        straight = two.replace(orthogonality=config.protocol.orthogonality)
        both = two.replace(sequences=(*two.sequences, *one.sequences), batch_size=2 * two.batch_size)
        held = held_by(config, model)
        above = adapt(model, [one.replace(**held)])
        models = {
            "sum": merge(merged, adapt(merged, [two])),
            "smaller": merge(once, adapt(once, [two.replace(**slow)])),
            "replay": merge(merged, adapt(merged, [both])),
            "orthogonal": merge(merged, adapt(model, [straight], on=first)),
            "anchored": merge(merge(model, above), adapt(model, [two.replace(**held)], on=above)),
            "mean": averaged(model, [first, apart]),
            "retrieved": merge(model, first if stream is streams[0] else apart),  # see `Mislabelled`
            "retrieved_oracle": merge(model, apart),
        }
        assert set(models) == set(REMEDIES)
        for name, last in models.items():
            edit = found[Condition("passage", name).name, stream.run, 2]
            assert (edit["task"], edit["status"]) == (stream.tasks[1].id, "ok")
            assert edit["answers"] == generate(last, domain.questions(stream.tasks[1], ""), **options), name
            texts.add(tuple(edit["answers"]))
    assert len(texts) > 3  # not one answer for all


@pytest.mark.slow
def test_each_remedy_trains_its_updates_on_top_of_the_adapters_that_add_up(finished, recorded):
    config, domain, streams, *_ = finished
    pairs = [updates_of(config, domain, stream) for stream in streams]
    slow = {"learning_rate": pairs[0][0].learning_rate * config.protocol.rate_factor}
    straight = {"orthogonality": config.protocol.orthogonality}
    held = held_by(config, load_model(config.model))
    expected = {
        "sum": ([one for one, _ in pairs], [two for _, two in pairs]),
        "smaller": ([one.replace(**slow) for one, _ in pairs], [two.replace(**slow) for _, two in pairs]),
        "replay": (
            [one for one, _ in pairs],
            [two.replace(sequences=(*two.sequences, *one.sequences), batch_size=2) for one, two in pairs],
        ),
        "orthogonal": ([one.replace(**straight) for one, _ in pairs], [two.replace(**straight) for _, two in pairs]),
        "anchored": ([one.replace(**held) for one, _ in pairs], [two.replace(**held) for _, two in pairs]),
        "mean": ([one for one, _ in pairs], [two for _, two in pairs]),
        "retrieved": ([one for one, _ in pairs], [two for _, two in pairs]),  # and shared with the oracle's
    }
    assert [updates for updates, _ in recorded.trained] == [each for steps in expected.values() for each in steps]
    on_top = [on is not None for _, on in recorded.trained]
    assert on_top == [step == 1 and name not in ("mean", "retrieved") for name in expected for step in (0, 1)]


@pytest.mark.slow
def test_each_question_chooses_an_adapter_of_its_own_stream(finished, recorded):
    _, domain, streams, *_ = finished
    counts = [[len(domain.questions(task, "")) for task in stream.tasks] for stream in streams]
    # Adapters step by step, of both streams each. The second passage of the first stream has the first one's questions.
    before = (2, [0] * counts[0][0] + [1] * counts[1][0])
    found = (4, [0] * sum(counts[0]) + [1] * counts[1][0] + [3] * counts[1][1])
    own = (4, [0] * counts[0][0] + [2] * counts[0][1] + [1] * counts[1][0] + [3] * counts[1][1])
    assert recorded.chosen == [before, found, before, own]


@pytest.mark.slow
def test_costs_are_counted_and_differences_are_paired_with_the_sum(finished):
    *_, workdir, summary = finished
    rows = {row["name"]: row for row in summary["retention"]}
    names = ["passage", *(f"passage+{name}" for name in REMEDIES if name != "sum")]
    assert list(rows) == ["none", *names]
    assert set(rows["none"]["cost"].values()) == {0}
    cost = rows["passage"]["cost"]
    steps = sum(len(json.loads(line)["sequences"]) for line in (workdir / "edits.jsonl").open() if '"passage"' in line)
    assert cost["inner_updates"] == 4 and cost["optimizer_steps"] == 6 * steps
    for name in names[1:]:
        same = {key: value for key, value in rows[name]["cost"].items() if key != "trained_tokens"}
        assert same == {key: cost[key] for key in same}  # equal numbers of updates and optimizer steps
        tokens = rows[name]["cost"]["trained_tokens"]
        more = name.endswith(("replay", "anchored"))
        assert tokens > cost["trained_tokens"] if more else tokens == cost["trained_tokens"]
    assert rows["passage+retrieved_oracle"]["measures"]["forgetting"]["mean"] == 0.0
    pairs = {(pair["a"], pair["b"]) for pair in summary["paired"]}
    assert pairs == {("passage", "none"), *((name, "passage") for name in names[1:])}
    page = (workdir / "report.html").read_text()
    assert page.count('aria-label="Remedies for forgetting') == 2
    assert not list((workdir / "checkpoints" / "arrays").iterdir())


@pytest.mark.slow
def test_remedies_that_share_adapters_train_them_once(small_config, tmp_path, monkeypatch):
    trained = []

    def counting(model, updates, **options):
        trained.append(len(updates))
        return adapt(model, updates, **options)

    monkeypatch.setattr("selfadapt.protocols.continual.steps.adapt", counting)
    remedies = "sum,retrieved_oracle,retrieved"
    config = small_config(protocol__variants="passage", protocol__passages="1", protocol__remedies=remedies)
    summary = evaluate(config, tmp_path)
    assert trained == [2, 2]
    assert [row["cost"]["inner_updates"] for row in summary["retention"]] == [2, 2, 2]


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(protocol__remedies="sum,rehearsal"), "'rehearsal'; a remedy is one of sum, smaller, replay"),
        (dict(protocol__remedies="replay"), "must name 'sum', which the others are compared with"),
        (dict(protocol__remedies="sum,mean,mean"), "each remedy once"),
        (dict(protocol__replayed="0"), "config.protocol.replayed is 0"),
        (dict(protocol__rate_factor="-0.5"), "config.protocol.rate_factor is -0.5"),
        (dict(protocol__orthogonality="nan"), "config.protocol.orthogonality is nan"),
        (dict(protocol__divergence="0.0"), "config.protocol.divergence is 0.0"),
        (dict(protocol__anchor_rows="0"), "config.protocol.anchor_rows is 0"),
        (dict(protocol__anchor_tokens="1"), "config.protocol.anchor_tokens is 1"),
        (dict(protocol__anchors="no.txt"), "config.protocol.anchors: no.txt: cannot be read"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(small_config, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        evaluate(small_config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_package_that_is_missing_is_named_before_anything_is_written(small_config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(UserError, match=r"selfadapt\[retrieval\]"):
        evaluate(small_config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert make(small_config(protocol__remedies="sum,retrieved_oracle")).conditions  # which needs no index


def test_anchors_are_lines_of_a_file_cut_to_their_first_tokens_or_documents_of_the_world(small_config, tmp_path):
    model = load_model(small_config().model)
    path = tmp_path / "anchors.txt"
    path.write_text("The city of Karlstad is old.\n\n \nThe mayor\nx\n")
    anchors = read_anchors(small_config(protocol__anchors=str(path), protocol__anchor_tokens="4"), model)
    ids = model.tokenizer(["The city of Karlstad is old.", "The mayor"])["input_ids"]
    assert [each.ids for each in anchors] == [tuple(ids[0][:4]), tuple(ids[1][:4])]  # one token is too few
    path.write_text("\n")
    with pytest.raises(UserError, match="has no text of at least two tokens"):
        read_anchors(small_config(protocol__anchors=str(path)), model)
    edit, open_book, *_ = texts = list(itertools.islice(pretraining.texts(0), 5))  # one of each kind
    assert "\nNotes:\n" in edit and open_book.count("Answer:") == 5 and len(set(texts)) == 5
    documents = read_anchors(small_config(), model)
    assert documents[1].ids == tuple(model.tokenizer(open_book)["input_ids"][:96])
    assert len(documents) == 256 and max(len(each.ids) for each in documents) == 96
    assert documents == read_anchors(small_config(), model) != read_anchors(small_config(seed="1"), model)
