"""The noise of rewards, on SEAL's ranking of edits and on rewards with known variances."""

import random
import statistics

import numpy as np
import pytest

from selfadapt.seal.analyze import analyze, format_analysis
from selfadapt.seal.noise import noise
from selfadapt.seal.results import Results, inner_results, read_results


def results_of(rewards, baselines, questions=20):
    """An "inner" file with logs; `rewards[passage][edit][run]` and `baselines[passage]` are shares of the questions."""
    articles = [
        {
            "title": "",
            "context": str(number),
            "prompt": "",
            "completions": [
                {
                    "text": "",
                    "questions": [
                        {
                            "rep": rep,
                            "question": "q",
                            "answer": "a",
                            "baseline_correct": place < round(baseline * questions),
                            "adapter_correct": place < round(reward * questions),
                        }
                        for rep, reward in enumerate(runs)
                        for place in range(questions)
                    ],
                }
                for runs in edits
            ],
        }
        for number, (edits, baseline) in enumerate(zip(rewards, baselines, strict=True))
    ]
    fields = dict(exp_name="x", dataset="x", split_newlines=True, lora_params={}, timestamp="x")
    return Results("x", "inner", inner_results(articles, **fields))


def test_the_second_round_of_seals_rewards_is_mostly_noise(seal_data):
    path = seal_data / "seal/knowledge/rank_iter1.json"
    content = read_results(path).content
    found = noise(read_results(path))
    assert (found.passages, found.edits, found.runs) == (50, 5, 3)
    # The file's statistics of each edit, through the formulas of a one-way analysis of variance.
    stats = [[each["stats"] for each in article["completions"]] for article in content["articles"]]
    within = statistics.fmean(each["adapter_std"] ** 2 for own in stats for each in own)
    between = statistics.fmean(3 * statistics.variance([each["adapter_mean"] for each in own]) for own in stats)
    assert found.between_runs[0] == pytest.approx(within) and within == pytest.approx(0.0527, abs=1e-4)
    assert found.between_edits[0] == pytest.approx((between - within) / 3)
    assert found.reliability[0] == pytest.approx(1 - within / between)
    assert found.reliability[0] == pytest.approx(0.17, abs=0.005)
    assert found.reliability[1] < 0 < found.reliability[2]  # that edits differ at all is not shown
    assert (found.hurt, found.level, found.expected_hurt) == (2, 6, 17)
    assert found.best == pytest.approx(0.5935, abs=1e-4) and found.expected == pytest.approx(0.4604, abs=1e-4)
    text = format_analysis(analyze([path]))
    assert "Of the 50 best edits 2 lost against the baseline and 6 equalled it" in text
    assert "reliability of a mean of 3 runs" in text


def test_known_variances_are_found_from_logs():
    source = random.Random(0)
    rewards = [
        [[edit + source.choice((-0.1, 0.1)) for _ in range(4)] for edit in source.choices((0.3, 0.5), k=4)]
        for _ in range(60)
    ]
    found = noise(results_of(rewards, [0.2] * 60))
    for (value, low, high), wanted in (
        (found.between_edits, 0.01),  # two values that are .2 apart
        (found.between_runs, 0.01),
        (found.reliability, 0.01 / (0.01 + 0.01 / 4)),
    ):
        assert value == pytest.approx(wanted, rel=0.2) and low < value < high
    assert (found.hurt, found.level) == (0, 0)


def test_the_best_edits_are_regressed_to_their_passages_mean():
    #                 best .6, mean .5, baseline .55   best .4 and first, mean .4    mean .3, best .5 below baseline .7
    rewards = [[[0.7, 0.5], [0.5, 0.3]], [[0.4, 0.4], [0.5, 0.3]], [[0.5, 0.5], [0.2, 0.0]]]
    found = noise(results_of(rewards, [0.55, 0.4, 0.7]))
    within = (0.02 + 0.02 + 0 + 0.02 + 0 + 0.02) / 6
    between = 2 * (0.02 + 0.0 + 0.08) / 3
    shrink = 1 - within / between
    assert found.reliability[0] == pytest.approx(shrink)
    assert found.expected == pytest.approx(np.mean([0.5 + 0.1 * shrink, 0.4, 0.3 + 0.2 * shrink]))
    assert (found.hurt, found.level) == (1, 1)
    assert found.expected_hurt == 1 + (0.5 + 0.1 * shrink < 0.55)


@pytest.mark.parametrize("rewards", [[[[0.5, 0.6]]], [[[0.5], [0.6]]]], ids=["one edit", "one run"])
def test_without_several_edits_and_runs_nothing_is_known_about_noise(rewards):
    results = results_of(rewards, [0.5])
    assert noise(results) is None


def test_passages_that_lack_edits_are_left_out():
    rewards = [[[0.7, 0.5], [0.5, 0.3]], [[0.4, 0.4]], [[0.5, 0.5], [0.2, 0.0]]]
    assert noise(results_of(rewards, [0.5] * 3)).passages == 2
