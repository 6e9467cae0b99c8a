"""Graders; the endpoint judge is tested against a local server."""

import json
import math
import threading

import pytest

from selfadapt import Task
from selfadapt.errors import UserError
from selfadapt.graders import (
    EndpointJudge,
    GradeItem,
    JudgedRubric,
    LogLikelihoodGrader,
    ModelJudge,
    get_grader,
    judge_prompt,
    normalize_answer,
    parse_verdict,
    token_f1,
)
from selfadapt.models.endpoint import BudgetExceeded, EndpointError
from tests.endpoints import Server


def item(answer, *golds, question="Who?"):
    return GradeItem(question, golds, answer)


def test_normalisation_is_squads():
    assert normalize_answer("  The U.S.A.'s  a an\tTHE theory ") == "usas theory"
    assert normalize_answer("“quoted” naïve") == "“quoted” naïve"  # only ASCII punctuation goes


def test_exact_needs_the_whole_answer_and_takes_any_gold():
    verdicts = get_grader("exact").grade(
        [
            item("The Denver Broncos!", "Carolina", "denver broncos"),
            item("Denver Broncos won", "Denver Broncos"),
            item("", "x"),
        ]
    )
    assert verdicts == [1.0, 0.0, 0.0]


def test_containment_matches_whole_words():
    verdicts = get_grader("containment").grade(
        [
            item("It was in the year 1066.", "1066"),
            item("It was in 1066.", "10"),
            item("In A.D. 10", "10"),
            item("", "x"),
        ]
    )
    assert verdicts == [1.0, 0.0, 1.0, 0.0]


def test_token_f1_counts_repeated_words_and_takes_the_best_gold():
    assert token_f1("x x y", "x y y") == pytest.approx(2 / 3)
    assert get_grader("token-f1").grade([item("a red cat", "dog", "red cat sat")]) == [pytest.approx(0.8)]


def test_token_f1_with_a_threshold_gives_yes_or_no():
    items = [item("red cat", "red cat sat"), item("red", "red cat sat")]
    assert get_grader("token_f1", threshold=0.8).grade(items) == [1.0, 0.0]
    with pytest.raises(ValueError, match="threshold"):
        get_grader("token-f1", threshold=80)


@pytest.mark.parametrize("name", ["exact", "containment", "token-f1"])
def test_answers_of_articles_and_signs_alone_are_not_all_equal(name):
    items = [item("A", "A"), item("the", "A"), item("+", "-"), item("", "A"), item("...", "")]
    assert get_grader(name).grade(items) == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_an_unknown_grader_or_option_is_named():
    with pytest.raises(ValueError, match="did you mean 'containment'"):
        get_grader("containmnt")
    with pytest.raises(ValueError, match="it takes threshold"):
        get_grader("token-f1", treshold=0.5)
    with pytest.raises(ValueError, match="generate_fn"):
        get_grader("model")


def test_a_verdict_is_a_yes_without_a_no():
    yes = ["yes", "Yes.", "**YES**", "I say yes"]
    no = ["no", "", "yes and no", "maybe", "eyes", "No, not yes"]
    assert all(map(parse_verdict, yes)) and not any(map(parse_verdict, no))


def test_the_model_as_judge_is_not_asked_about_empty_answers():
    asked = []

    def generate(prompts):
        asked.extend(prompts)
        return [" Yes\n\nQuestion: no?" if "good" in prompt else "" for prompt in prompts]

    items = [item("good one", "gold"), item("  ", "gold"), item("bad one", "gold", "other")]
    assert ModelJudge(generate).grade(items) == [1.0, 0.0, 0.0]
    assert len(asked) == 2 and "Reference answer: other" in asked[1]
    with pytest.raises(ValueError, match="1 replies to 2 prompts"):
        ModelJudge(lambda prompts: ["yes"]).grade(items)


def test_a_judges_prompt_can_be_replaced_by_a_template():
    template = "Q={question} G={gold} A={answer} {{yes/no}}"
    expected = "Q=Who {x}? G=gold\nother A=good one {yes/no}"
    asked = item(" good one ", "gold", "other", question="Who {x}?")
    assert judge_prompt(asked, template) == expected
    prompts = []
    ModelJudge(lambda texts: prompts.extend(texts) or ["yes"], prompt=template).grade([asked])
    assert prompts == [expected]


@pytest.mark.parametrize(
    "judge", [lambda **o: ModelJudge(None, **o), lambda **o: EndpointJudge("m", api_key_env=None, **o)]
)
def test_a_judges_template_needs_question_gold_and_answer(judge):
    with pytest.raises(
        UserError, match=r"the judge's prompt: the placeholder \{gold\} is missing; .* \{gold\} and \{answer\}"
    ):
        judge(prompt="{question} {answer}")
    with pytest.raises(UserError, match=r"the judge's prompt: unknown placeholder \{title\}"):
        judge(prompt="{question} {answer} {gold} {title}")


def test_log_likelihood_takes_the_best_gold_and_a_nan_never_wins():
    table = {"a": -0.5, "b": -2.0, "c": math.nan}
    calls = []

    def score(prompts, targets):
        calls.append(prompts)
        return [table[target] for target in targets]

    items = [item("?", "b", "a"), item("?", "c"), GradeItem("Q", ("b",), "", prompt="long prompt")]
    assert LogLikelihoodGrader(score).grade(items) == [pytest.approx(math.exp(-0.5)), 0.0, pytest.approx(math.exp(-2))]
    assert LogLikelihoodGrader(score, threshold=-1.0).grade(items) == [1.0, 0.0, 0.0]
    assert calls[0] == ["Who?", "Who?", "Who?", "long prompt"]
    with pytest.raises(UserError, match=r"threshold is 0\.5; a log-probability is at most 0"):
        LogLikelihoodGrader(score, threshold=0.5)
    with pytest.raises(UserError, match="1 scores for 2 targets"):
        LogLikelihoodGrader(lambda prompts, targets: [-1.0]).grade(items[:1])


def judged(body):
    """Says yes if the answer to judge contains "good"."""
    answer = body["messages"][0]["content"].split("Answer to judge: ")[1].splitlines()[0]
    return "Yes." if "good" in answer else "No."


class JudgeServer(Server):
    def __init__(self):
        super().__init__(judged)

    def judge(self, **options):
        return EndpointJudge("judge-1", **({"url": self.url, "api_key_env": None, "backoff": 0.001} | options))


@pytest.fixture
def server():
    with JudgeServer() as server:
        yield server


def test_the_endpoint_judges_several_answers_at_once(server):
    server.gate = threading.Barrier(4)  # opens only when four requests are under way
    judge = server.judge(concurrency=4)
    assert judge.grade([item(f"{w} {i}", "g") for i in range(2) for w in ("good", "bad")]) == [1.0, 0.0, 1.0, 0.0]
    assert server.most_at_once == 4 and judge.requests == 4
    path, _, body = server.seen[0]
    assert path == "/v1/chat/completions" and body["model"] == "judge-1" and body["temperature"] == 0


def test_the_endpoint_is_asked_with_the_template_and_its_verdicts_are_kept_apart(server, tmp_path):
    cache = tmp_path / "cache.jsonl"
    server.judge(cache=cache).grade([item("good", "g")])
    judge = server.judge(cache=cache, prompt="{question} / {gold} / Answer to judge: {answer}")
    assert judge.grade([item("good", "g")]) == [1.0] and judge.requests == 1
    assert server.seen[1][2]["messages"] == [{"role": "user", "content": "Who? / g / Answer to judge: good"}]


def test_no_more_requests_are_under_way_than_allowed(server):
    server.judge(concurrency=2).grade([item(f"good {i}", "g") for i in range(12)])
    assert server.most_at_once <= 2 and len(server.seen) == 12


def test_empty_answers_and_repeated_items_cost_nothing(server):
    judge = server.judge()
    assert judge.grade([item("", "g"), item("good", "g"), item("good", "g"), item("  ", "g")]) == [0.0, 1.0, 1.0, 0.0]
    assert judge.requests == 1


def test_busy_servers_are_asked_again(server):
    server.failures = [
        (429, {"Retry-After": "0"}, "slow down"),
        (503, {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}, ""),
    ]
    judge = server.judge()
    assert judge.grade([item("good", "g")]) == [1.0]
    assert judge.requests == 3


def test_a_server_that_stays_away_is_named_after_the_last_attempt(server):
    server.failures = [(500, {}, "broken")] * 3
    with pytest.raises(EndpointError, match=r"HTTP 500 broken, after 3 of 3 attempts"):
        server.judge(attempts=3).grade([item("good", "g")])
    with pytest.raises(EndpointError, match="no reply"):
        server.judge(url="http://127.0.0.1:9", attempts=1).grade([item("good", "g")])


def test_a_refusal_is_not_retried_and_the_key_is_not_shown(server, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    server.failures = [(401, {}, "bad key sk-secret")]
    judge = server.judge(api_key_env="JUDGE_KEY")
    with pytest.raises(EndpointError, match=r"401.*\[key\]") as caught:
        judge.grade([item("good", "g")])
    assert "sk-secret" not in str(caught.value) and judge.requests == 1
    assert server.seen[0][1]["Authorization"] == "Bearer sk-secret"


def test_a_redirect_is_refused(server, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    server.failures = [(302, {"Location": f"{server.url}/elsewhere"}, "")]
    with pytest.raises(EndpointError, match="302"):
        server.judge(api_key_env="JUDGE_KEY").grade([item("good", "g")])
    assert len(server.seen) == 1


def test_a_reply_that_is_no_completion_is_quoted(server):
    server.failures = [(200, {}, '{"error": "odd"}')]
    with pytest.raises(EndpointError, match=r"no chat completion.*odd"):
        server.judge().grade([item("good", "g")])


def test_nothing_paid_for_is_lost_when_the_budget_ends(server, tmp_path):
    items = [item(f"good {i}", "g") for i in range(5)]
    cache = tmp_path / "judge" / "cache.jsonl"
    with pytest.raises(BudgetExceeded, match="budget of 3 requests"):
        server.judge(cache=cache, max_requests=3, concurrency=1).grade(items)
    again = server.judge(cache=cache)
    assert again.grade(items) == [1.0] * 5
    assert again.requests == 2 and len(server.seen) == 5
    free = server.judge(cache=cache, max_requests=0)
    assert free.grade(items) == [1.0] * 5


def test_a_cache_that_a_crash_cut_short_is_read_as_far_as_it_goes(server, tmp_path):
    cache = tmp_path / "cache.jsonl"
    items = [item("good 1", "g"), item("good 2", "g")]
    server.judge(cache=cache, concurrency=1).grade(items)
    cache.write_bytes(cache.read_bytes()[:-20])
    again = server.judge(cache=cache)
    assert again.grade(items) == [1.0, 1.0] and again.requests == 1
    third = server.judge(cache=cache)
    assert third.grade(items) == [1.0, 1.0] and third.requests == 0


def test_another_model_or_setting_has_its_own_verdicts(server, tmp_path):
    cache = tmp_path / "cache.jsonl"
    server.judge(cache=cache).grade([item("good", "g")])
    other = server.judge(cache=cache, parameters={"temperature": 1, "max_completion_tokens": 4})
    other.grade([item("good", "g")])
    assert other.requests == 1 and server.seen[1][2]["max_completion_tokens"] == 4


def test_a_missing_key_or_a_wrong_setting_is_an_error_before_any_request(monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(ValueError, match="set the environment variable JUDGE_KEY"):
        EndpointJudge("m", api_key_env="JUDGE_KEY")
    with pytest.raises(ValueError, match="the judge's model is empty"):
        EndpointJudge("", api_key_env=None)
    for options in ({"url": "localhost"}, {"concurrency": 0}, {"attempts": 0}, {"max_requests": -1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            EndpointJudge("m", **({"api_key_env": None} | options))


def test_a_rubric_asks_the_endpoint_once_for_each_edit_and_keeps_its_replies(server, tmp_path):
    reply = {"choices": [{"message": {"content": "Length: 4\nDiversity: 3\nQuality: 5\nCorrectness: 2"}}]}
    server.failures = [(200, {}, json.dumps(reply))]
    cache, task = tmp_path / "cache.jsonl", Task("t", "She wrote.", ())
    template = "{context} Answer to judge: {edit}"
    judge = server.judge(cache=cache)
    assert JudgedRubric(judge.replies, prompt=template).rate([task] * 3, ["a", "", "a"]) == [
        (4, 3, 5, 2), (0, 0, 0, 0), (4, 3, 5, 2)
    ]  # fmt: skip
    assert judge.requests == 1 and server.seen[0][2]["messages"][0]["content"] == "She wrote. Answer to judge: a"
    again = server.judge(cache=cache, max_requests=0)
    assert JudgedRubric(again.replies, prompt=template).rate([task], ["a"]) == [(4, 3, 5, 2)]
