"""What SEAL's files show: selections by absolute accuracy, leaks, lost verdicts, lengths of edits."""

import statistics

import pytest

from selfadapt.data.records import DataError
from selfadapt.seal.checks import kept_by_title, leaked, lengths, selected
from selfadapt.seal.results import Results, ResultsError, read_results
from selfadapt.types import Task


def edit(text, before, after):
    stats = {"baseline_mean": before, "baseline_std": 0.0, "adapter_mean": after, "adapter_std": 0.0}
    gain = None if after is None else after - before
    return {"text": text, "stats": stats | {"gain_mean": gain}, "questions": []}


def ranked(*passages):
    articles = [{"prompt": f"p{i}", "completions": list(edits)} for i, edits in enumerate(passages)]
    return Results("ranked", "inner", {"articles": articles})


def test_the_first_of_the_best_edits_is_taken_by_absolute_accuracy_also_where_it_hurts():
    found = selected(
        ranked(
            [edit("a", 0.25, 0.25), edit("b", 0.25, 0.75), edit("c", 0.25, 0.75)],  # a tie
            [edit("d", 0.75, 0.5), edit("e", 0.0, 0.25)],  # the best one hurts, the other improves
            [edit("f", 0.5, 0.25), edit("g", 0.5, 0.5)],  # the best one changes nothing
        )
    )
    assert found.winners == (("p0", "b"), ("p1", "d"), ("p2", "g"))
    assert (found.ties, found.edits, found.improve) == (1, 7, 3)


def test_edits_and_passages_without_accuracy_are_left_out():
    found = selected(ranked([edit("a", 0.5, None)], [edit("b", 0.5, None), edit("c", 0.5, 0.75)]))
    assert (found.winners, found.ties, found.edits, found.improve) == ((("p1", "c"),), 0, 1, 1)


def test_the_published_rounds_selection_is_recomputed(seal_data):
    found = selected(read_results(seal_data / "seal/knowledge/rank_iter1.json"))
    assert (found.ties, found.improve, found.edits, len(found.winners)) == (17, 143, 250, 50)


def test_a_prompt_with_a_passage_of_the_evaluation_is_a_leak():
    assert leaked(["Read: The owl is red.", "Read: The owl", "It is late."], {"The owl is red.", "It is"}) == 2


def test_verdicts_kept_by_title_are_counted_with_their_accuracy():
    titles = {"x": {"adapter_correct": [True, False]}, "y": {"adapter_correct": [True, True]}}
    assert kept_by_title(Results("r", "cpt", {"per_article": titles})) == (4, 0.75)


def test_a_title_without_verdicts_is_named(tmp_path):
    reply = '{"baseline_correct": [true], "adapter_correct": [true]}'
    (tmp_path / "r.json").write_text(f'{{"server_reply": {reply}, "overall": {{}}, "per_article": {{"Owls": {{}}}}}}')
    with pytest.raises(ResultsError, match="per_article, 'Owls': the field 'adapter_correct' is missing"):
        read_results(tmp_path / "r.json")


def test_lengths_are_those_of_all_edits_and_of_the_first_ones_sequences():
    tasks = [
        Task("1", "An owl.", (), "T", {"completions": ("One two.\nThree.", "Four.")}),
        Task("2", "A fox.", (), "T", {"completions": ("Five six seven.",)}),
    ]
    found = lengths(tasks)
    assert found.words == (2.0, 3.0) and found.sequences == (3, 2)
    sequences = ["T\nOne two.", "T\nThree.", "T\nAn owl.", "T\nFive six seven.", "T\nA fox."]
    assert found.characters == pytest.approx(statistics.fmean(map(len, sequences)))
    with pytest.raises(DataError, match="'T' has no 'completions'"):
        lengths([Task("3", "c", (), "T")])
