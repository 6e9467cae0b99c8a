"""The share of decoded tokens that belong to texts."""

import json

from benchmarks import decoded_tokens


def test_rows_that_end_early_are_not_decoded_to_the_end(tmp_path, capsys):
    texts = ["word " * (8 if place else 400) for place in range(40)]  # one of 500 tokens, the others of 10
    record = {"title": "T", "context": "C.", "questions": [{"question": "Q?", "answer": "A"}], "completions": texts}
    (tmp_path / "edits.json").write_text(json.dumps([record]))
    decoded_tokens.main([str(tmp_path / "edits.json"), "--rows", "40", "16", "--shards", "1"])
    first, second = (line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:])
    assert first[1:5] == ["40", "22, 500", "40", "1"] and second[3] == "16"
    first, second = ([tuple(map(float, each.strip(" |").split(", "))) for each in row[5:]] for row in (first, second))
    # After 128 tokens one row is left of 40: 39 x 9 + 499 new tokens, of 40 x 499, or of 40 x 128 + 371; none waits.
    assert first[0] == (round(850 / (40 * 499), 2), 499) and first[1] == first[2] == (0.15, 499)
    assert 850 / (40 * 128 + 371) - 0.15 < 0.01
    # Three batches of 16, the last one padded, one after the other; or the long text beside all others.
    assert [steps for _, steps in second] == [499 + 9 + 9, 499 + 9 + 9, 499]
    # With the others in its places the first 64 tokens have 16 rows; few of them are new, since texts are short.
    assert second[1][0] < second[2][0]
