"""A training that was interrupted ends with the bits of one that was not."""

import signal

import pytest

from minilm.config import UserError
from minilm.runs import checkpoint
from minilm.runs.loop import Stopped
from minilm.runs.run import Run
from tests.machinery.tiny import Training, saved

KINDS = ["hybrid", "labels"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What each kind ends with when nobody interrupts it."""
    found = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp("whole") / kind
        Training(kind).run(folder)
        found[kind] = saved(folder)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path, whole, kind):
    taken = []

    def stop_twice(step):
        taken.append(step)
        if len(taken) in (3, 4):
            signal.raise_signal(signal.SIGINT)

    for _ in range(2):
        with pytest.raises(Stopped, match=f"go on with --run {tmp_path} --resume") as stopped:
            Training(kind, before=stop_twice).run(tmp_path)
        assert stopped.value.status == 130
    Training(kind, before=stop_twice).run(tmp_path)
    assert taken == list(range(8))  # no step is lost or taken twice
    assert saved(tmp_path) == whole[kind]


def test_the_same_training_gives_the_same_bits_however_often_it_evaluates_and_shows(tmp_path):
    Training(every=8).run(tmp_path / "seldom")
    Training(every=1, show=lambda: "a sample").run(tmp_path / "often")
    assert saved(tmp_path / "seldom")[0] == saved(tmp_path / "often")[0]


def test_a_crash_costs_the_steps_since_the_last_save_and_nothing_else(tmp_path, whole):
    def crash(step):
        if step == 5:
            raise MemoryError

    with pytest.raises(MemoryError):
        Training(before=crash).run(tmp_path)
    assert checkpoint.newest(tmp_path).step == 4
    Training().run(tmp_path)
    assert saved(tmp_path) == whole["hybrid"]


@pytest.mark.parametrize("after", ["save", "log", "save again"])
def test_killed_around_an_evaluation_a_run_notes_it_once(tmp_path, monkeypatch, whole, after):
    owner, name = (Run, "log") if after == "log" else (checkpoint, "save")
    function, calls = getattr(owner, name), []

    def killed(*args, **options):
        function(*args, **options)
        calls.append(name)
        if len(calls) == {"log": 6, "save": 3, "save again": 4}[after]:  # the score of step 4
            raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(owner, name, killed)
        Training().run(tmp_path)
    Training().run(tmp_path)
    assert saved(tmp_path) == whole["hybrid"]


@pytest.mark.parametrize("number, when", [(signal.SIGINT, "in"), (signal.SIGTERM, "just before")])
def test_a_stop_in_an_evaluation_does_not_wait_for_its_end(
    tmp_path, monkeypatch, whole, number, when
):
    save = checkpoint.save

    def evaluate():
        if when == "in":
            signal.raise_signal(number)
        raise AssertionError("it went on")

    def save_and_stop(*args, **states):
        save(*args, **states)
        signal.raise_signal(number)

    with monkeypatch.context() as patch:
        if when == "just before":
            patch.setattr(checkpoint, "save", save_and_stop)
        with pytest.raises(Stopped, match="step 2 is saved") as stopped:
            Training(evaluate=evaluate).run(tmp_path)
    assert stopped.value.status == 128 + number
    assert checkpoint.newest(tmp_path).score is None
    Training().run(tmp_path)
    assert saved(tmp_path) == whole["hybrid"]


def test_a_second_ctrl_c_leaves_at_once(tmp_path):
    def twice(step):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored behind nohup
    try:
        with pytest.raises(KeyboardInterrupt):
            Training(before=twice).run(tmp_path)
    finally:
        signal.signal(signal.SIGINT, usual)
    assert checkpoint.newest(tmp_path) is None


def test_a_finished_run_takes_no_step_and_changes_nothing(tmp_path, whole, capsys):
    Training().run(tmp_path)
    spent = Training(before=lambda step: pytest.fail("a step")).run(tmp_path)
    assert "was finished before: all 8 steps" in capsys.readouterr().out
    assert saved(tmp_path) == whole["hybrid"] and spent["tokens"] == 8 * 6 * 12


def test_a_checkpoint_of_another_model_or_optimizer_is_refused(tmp_path):
    Training(steps=2).run(tmp_path)
    for kind, optimizer in (("labels", "muon"), ("hybrid", "adamw")):
        with pytest.raises(UserError, match="does not fit this model and optimizer"):
            Training(kind, optimizer=optimizer).run(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "empty", "nonsense", "another score"])
def test_a_damaged_metrics_file_changes_neither_the_weights_nor_early_stopping(
    tmp_path, whole, damage
):
    with pytest.raises(Stopped):
        Training(before=lambda s: s == 4 and signal.raise_signal(signal.SIGINT)).run(tmp_path)
    path = tmp_path / "metrics.jsonl"
    text = path.read_text(encoding="utf-8")
    path.unlink()
    damaged = {"empty": "", "nonsense": "{}\n\0\n", "another score": text.replace(": 3", ": 0")}
    if damage != "missing":
        path.write_text(damaged[damage])
    Training(patience=8).run(tmp_path)
    assert saved(tmp_path)[0] == whole["hybrid"][0] and saved(tmp_path)[2:] == whole["hybrid"][2:]
