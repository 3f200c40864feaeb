"""What the two commands of README's first line are for, at a quarter of their length."""

import json

import pytest

import minilm


@pytest.mark.slow  # about eight minutes on two cores
def test_pretrained_weights_learn_more_from_300_labels_than_random_ones_and_a_bag_of_tokens(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    minilm.pretrain(steps=750, evaluations=1, run="first")
    minilm.finetune(pretrained="first", run="tuned", baselines="all")
    rows = json.loads((tmp_path / "tuned/result.json").read_text())["rows"]
    these, random, bag, largest = (row["accuracy"] for row in rows.values())
    assert these > max(random, bag) + 0.03 and min(random, bag) > largest + 0.05
    losses = [row["loss"] for row in rows.values()]
    assert losses[0] == min(losses)
