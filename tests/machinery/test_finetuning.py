"""What fine-tuning trains, and how fast each part of it; and that a run outlives a release."""

import json
import shutil
from pathlib import Path

import pytest

import minilm
from minilm.runs.run import Run, make_model
from tests.machinery.small import pretrained

# Two runs as version 0.1.0 wrote them (run format 4), the first one broken off after step 4 of 6,
# and in said.json what they said of a text. Who changes the format on purpose makes them anew.
RELEASE = Path(__file__).with_name("release")


def test_freeze_trains_the_head_alone_and_by_layer_decay_each_block_learns_slower_than_the_next(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    base = pretrained(tmp_path / "base")
    rows = [f"good film {i},yes\nbad film {i},no" for i in range(20)]
    Path("own.csv").write_text("\n".join(["text,label", *rows, ""]))
    flags = dict(pretrained="base", train="own.csv", epochs=2, optimizer="adamw", dropout=0.0,
                 weight_decay=0.0, baselines="none", device="cpu", precision="float32")  # fmt: skip

    def learnt(run, start, **how):
        """How far the weights of the first and the second block have moved, on average."""
        model = minilm.finetune(run=run, **how, **flags).model
        assert model.head.weight.any()  # it began as zeros
        now, before = (m.state_dict() for m in (model.transformer, start))
        names = [f"blocks.{i}.feed_forward.up.weight" for i in (0, 1)]
        return [(now[name] - before[name]).abs().mean().item() for name in names]

    ours, random = base.transformer(), make_model(base.model_config(dropout=0.0))
    assert learnt("frozen", ours, freeze=True) == [0.0, 0.0]
    for run, start, decay, expected in (
        ("even", ours, 1.0, 1.0), ("falling", ours, 0.1, 0.1), ("random", random, 0.1, 1.0),
    ):  # fmt: skip
        first, second = learnt(run, start, layer_decay=decay, from_scratch=start is random)
        assert first / second == pytest.approx(expected, rel=0.3), run


def test_a_run_of_an_earlier_release_says_what_it_said_then_and_goes_on(tmp_path, monkeypatch):
    shutil.copytree(RELEASE, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    said = json.loads(Path("said.json").read_text())
    lm, labels = minilm.load("first", "cpu"), minilm.load("labels", "cpu")
    assert lm.score(said["text"]).nats == pytest.approx(said["nats"], rel=1e-4)
    assert labels.predict_proba([said["text"]])[0] == pytest.approx(said["p"], rel=1e-4)
    minilm.pretrain(run="first", resume=True)
    assert Run("first").result["steps"] == 6
