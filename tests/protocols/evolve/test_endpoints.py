"""Evolution with models at endpoints, against a local server: as the editor, and as the model that answers."""

import pytest

from selfadapt.files import read_jsonl
from selfadapt.protocols.evolve import make
from selfadapt.protocols.run import evaluate
from tests.domains.instructions import following
from tests.endpoints import Server

SMALL = dict(evaluation__contexts=2, domain__tree_rounds=1)


def at(server, group, **fields):
    fields = {"url": server.url, "model": "chat-1", "api_key_env": "CHAT_KEY"} | fields
    return {f"protocol__{group}__{name}": value for name, value in fields.items()}


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("CHAT_KEY", "sk-1")


def test_an_editor_at_an_endpoint_reads_summaries_in_words_and_its_replies_are_the_edits(config_of, tmp_path):
    def reply(body):
        line = f"apple = {'KC'[body['seed'] % 2]}"
        return "No tags." if body["seed"] % 5 == 0 else f"I think.\n<prompt>{line}\nplum = {line[-1]}</prompt>"

    with Server(reply) as server:
        config = config_of(protocol__variants=("endpoint_tree",), **SMALL, **at(server, "editor_endpoint"))
        summary = evaluate(config, tmp_path)
    requests = [body for _, _, body in server.seen]
    assert len(requests) == 2 * 2 and all(headers["Authorization"] == "Bearer sk-1" for _, headers, _ in server.seen)
    for body in requests:
        text = body["messages"][0]["content"]
        assert "the model answered 3 problems" in text and "Right answer:" in text and "rewrite:" not in text
        assert (body["max_tokens"], body["temperature"]) == (config.sampling.max_new_tokens, 1.0)
    edits = list(read_jsonl(tmp_path / "edits.jsonl"))
    assert sorted(edit["text"] for edit in edits) == sorted(map(reply, requests))
    assert {edit["status"] == "ok" for edit in edits if "<prompt>" in edit["text"]} == {True}
    (row,) = summary["evolution"]
    assert row["note"].startswith("the editor at an endpoint; ") and summary["editor_endpoint"] == "chat-1"


def test_answers_from_an_endpoint_are_scored_and_read_as_those_of_a_model(config_of, tmp_path):
    variants = ("untrained_tree", "oracle")
    local = evaluate(config_of(protocol__variants=variants, **SMALL), tmp_path / "local")
    with Server(lambda body: following.follow(body["messages"][0]["content"])) as server:
        config = config_of(protocol__variants=variants, student="endpoint", **SMALL, **at(server, "student_endpoint"))
        remote = evaluate(config, tmp_path / "remote")
    assert remote["evolution"] == local["evolution"] and remote["student"] == "chat-1"
    read = [(tmp_path / name / "edits.jsonl").read_bytes() for name in ("local", "remote")]
    assert read[0] == read[1] and all(body["stop"] == ["\n"] for _, _, body in server.seen)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": None}, r"config\.protocol\.editor_endpoint\.model is missing"),
        ({"parameters": "{"}, r"config\.protocol\.editor_endpoint\.parameters is no JSON"),
        ({"parameters": "[1]"}, r"config\.protocol\.editor_endpoint\.parameters must be a JSON object"),
        ({"url": "localhost"}, r"config\.protocol\.editor_endpoint: the endpoint's url is 'localhost'"),
        ({"api_key_env": "NO_KEY"}, r"config\.protocol\.editor_endpoint: .* set the environment variable NO_KEY"),
    ],
)
def test_an_endpoint_that_cannot_be_used_is_named(config_of, fields, message):
    group = {"url": "http://localhost", "model": "chat-1", "api_key_env": "CHAT_KEY"} | fields
    changes = {f"protocol__editor_endpoint__{name}": value for name, value in group.items()}
    with pytest.raises(ValueError, match=message):
        make(config_of(protocol__variants=("endpoint_tree",), **changes))
