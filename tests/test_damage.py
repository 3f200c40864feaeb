"""What damage can do to a checkpoint: it is passed over or refused, never used."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from test_checkpoint import hold_what_was_saved, save, states

from minilm import checkpoint, tensor_file
from minilm.config import NonFiniteError, UserError
from minilm.runs import Run

ROOT = Path(checkpoint.__file__).parents[1]


def damaged(rng, content, others):
    """The content of a file, changed in one of many ways. others: those of other files."""
    content, at, length = bytearray(content), rng.randrange(len(content)), rng.randrange(1, 600)
    what = rng.choice(["bit", "byte", "cut", "zero", "swap", "append", "exchange", "digit", "json"])
    if what == "bit":
        content[at] ^= 1 << rng.randrange(8)
    elif what == "byte":
        content[at] = rng.randrange(256)
    elif what == "cut":
        del content[at:]
    elif what == "zero":  # a page that never reached the disk
        content[at : at + length] = bytes(len(content[at : at + length]))
    elif what == "swap":
        other = rng.randrange(len(content))
        one, two = content[at : at + 64], content[other : other + 64]
        content[at : at + 64], content[other : other + 64] = two, one
    elif what == "append":
        content += rng.randbytes(length)
    elif what == "exchange":
        content = rng.choice(others)
    elif what == "digit":
        digits = [i for i, byte in enumerate(content) if byte in b"0123456789"]
        content[rng.choice(digits)] = rng.choice(b"0123456789")
    elif content[:1] == b"{":
        facts = json.loads(content)
        changed = [0, 1.0, -1, "1", None, [], {}, 1e300, *facts.values()]
        facts[rng.choice(sorted(facts))] = rng.choice(changed)
        content = json.dumps(facts).encode()
    return bytes(content)


@pytest.mark.parametrize("n", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_of_so_many_damaged_checkpoints_none_is_used_and_the_older_one_is(tmp_path, n, capsys):
    whole, run = tmp_path / "whole", tmp_path / "run"
    whole.mkdir()
    save(whole, 1, 2, score=0.5)
    files = {path.name: path.read_bytes() for path in (whole / "step-00000002").iterdir()}
    shutil.copytree(whole, run)
    older, folder = run / "step-00000001", run / "step-00000002"
    facts = checkpoint.newest(whole).score, checkpoint.newest(whole).spent
    rng, passed_over = random.Random(n), 0
    for _ in range(n):
        name = rng.choice(sorted(files))
        changed = damaged(rng, files[name], [*files.values(), (older / name).read_bytes()])
        (folder / name).write_bytes(changed)
        if rng.random() < 0.05:
            (folder / name).unlink()
        found = checkpoint.newest(run)
        said = f"{folder} is damaged and not used" in capsys.readouterr().err
        assert said == (found.step == 1)
        assert hold_what_was_saved(found) and (found.score, found.spent) == facts
        if changed != files[name] and name != "manifest.json":  # in which blanks may change
            assert found.step == 1
        passed_over += found.step == 1
        (folder / name).write_bytes(files[name])
    assert passed_over > 0.8 * n


@pytest.mark.parametrize("n", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_damaged_config_is_refused_or_says_the_same(small_world, tmp_path, n):
    whole = Run("first").config
    files = [Path("first", name).read_bytes() for name in ("config.json", "tokenizer.json")]
    shutil.copy(Path("first", "tokenizer.json"), tmp_path)
    rng, refused = random.Random(n), 0
    for _ in range(n):
        (tmp_path / "config.json").write_bytes(damaged(rng, files[0], files))
        try:
            assert Run(tmp_path).config == whole
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > n / 2


def test_damaged_lines_of_the_metrics_are_said_and_not_used(tmp_path, capsys):
    run = Run(tmp_path)
    for bad in (b"\0\0\0", b"[]", b'{"step": "2"}', b'{"loss": 1}', b'{"step": NaN}', b"\xff"):
        good = b'{"step": 1, "loss": 2.0}\n'
        (tmp_path / "metrics.jsonl").write_bytes(good + bad + b"\n" + good)
        assert run.metrics() == [{"step": 1, "loss": 2.0}]
        assert "line 2 is damaged and not used" in capsys.readouterr().err
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"st')  # what a kill leaves
    assert run.metrics() == [{"step": 1}] and not capsys.readouterr().err


# Numbers that are none


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_tensor_that_is_not_finite_is_packed_wherever_it_lies(value):
    tensor_file.pack(states(1))
    for broken in ({"a": [{"b": torch.tensor([1.0, value])}]}, [torch.tensor(value)]):
        with pytest.raises(NonFiniteError, match="is not finite, so it is not saved"):
            tensor_file.pack(broken)
