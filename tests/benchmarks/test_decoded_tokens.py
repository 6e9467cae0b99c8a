"""The share of decoded tokens that belong to texts."""

import json

from benchmarks import decoded_tokens


def test_rows_that_end_early_are_not_decoded_to_the_end(tmp_path, capsys):
    texts = ["word " * (8 if place else 400) for place in range(40)]  # one of 500 tokens, the others of 10
    record = {"title": "T", "context": "C.", "questions": [{"question": "Q?", "answer": "A"}], "completions": texts}
    (tmp_path / "edits.json").write_text(json.dumps([record]))
    decoded_tokens.main([str(tmp_path / "edits.json"), "--rows", "40", "64", "--shards", "1"])
    first, second = (line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:])
    assert first[1:5] == ["40", "22, 500", "40", "1"] and second[3] == "64"
    whole, ours, most = (float(value.strip(" |")) for value in first[5:])
    # After 128 tokens one row is left of 40: 39 x 9 + 499 new tokens, of 40 x 499, or of 40 x 128 + 371.
    assert whole == round(850 / (40 * 499), 2) and abs(ours - 850 / (40 * 128 + 371)) < 0.01
    assert most == round(850 / (40 * 32 + 467), 2)
    assert float(second[5]) < whole  # a batch is padded to its shape
