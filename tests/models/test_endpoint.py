"""A chat model at an endpoint as a writer of texts, against a local server."""

import pytest

from selfadapt.errors import InvalidValueError
from selfadapt.models.endpoint import Endpoint
from tests.endpoints import Server


@pytest.fixture
def server():
    with Server(lambda body: f"{body['messages'][0]['content']} {body.get('seed')}") as server:
        yield server


def endpoint(server, **options):
    return Endpoint("chat-1", **({"url": server.url, "api_key_env": None, "backoff": 0.001} | options))


def bodies(server):
    return [body for _, _, body in server.seen]


def test_samples_are_requests_that_differ_in_their_seed_alone(server):
    options = dict(max_new_tokens=9, temperature=0.7, top_p=0.8, num_samples=2)
    first = endpoint(server).generate(["a", "b"], ids=["x", "y"], seed=3, **options)
    assert [[text.split()[0] for text in texts] for texts in first] == [["a", "a"], ["b", "b"]]
    assert len({text.split()[1] for texts in first for text in texts}) == 4
    assert all(0 <= body.pop("seed") < 2**31 for body in bodies(server))
    assert all(body.pop("messages")[0]["role"] == "user" for body in bodies(server))
    assert bodies(server) == [{"model": "chat-1", "max_tokens": 9, "temperature": 0.7, "top_p": 0.8}] * 4
    again, other = (endpoint(server).generate(["b"], ids=["y"], seed=seed, **options)[0] for seed in (3, 4))
    assert again == first[1] and not set(again) & set(other)


def test_greedy_answers_have_no_seed_and_equal_prompts_are_asked_once(server):
    asked = endpoint(server)
    texts = asked.generate(["a", "b", "a"], max_new_tokens=4, stop=("\n",))
    assert texts == ["a None", "b None", "a None"] and asked.requests == 2
    assert all(body["temperature"] == 0 and body["stop"] == ["\n"] for body in bodies(server))


def test_parameters_replace_fields_of_requests_and_null_removes_them(server):
    parameters = {"max_tokens": None, "max_completion_tokens": 5, "temperature": 1}
    endpoint(server, parameters=parameters).generate(["a"], max_new_tokens=4)
    (body,) = bodies(server)
    assert "max_tokens" not in body and (body["max_completion_tokens"], body["temperature"]) == (5, 1)


def test_replies_that_are_in_the_cache_are_not_asked_for_again(server, tmp_path):
    options = dict(max_new_tokens=4, temperature=1.0, num_samples=3)
    texts = endpoint(server, cache=tmp_path / "cache").generate(["a"], **options)
    free = endpoint(server, cache=tmp_path / "cache", max_requests=0)
    assert free.generate(["a"], **options) == texts and len(server.seen) == 3


def test_messages_name_the_endpoint():
    with pytest.raises(InvalidValueError, match="the endpoint's model is empty"):
        Endpoint("", api_key_env=None)
