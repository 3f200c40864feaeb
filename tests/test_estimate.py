"""An estimate: what can be counted is counted right, and what is measured is put together right."""

import dataclasses

import pytest
import torch

from minilm.config import ModelConfig, PretrainConfig, UserError
from minilm.device import Machine
from minilm.experiments import estimate as room
from minilm.experiments.estimate import (
    count_parameters,
    energy_counters,
    estimate,
    kept_for_backward,
    make_trainer,
    random_task,
    seconds_per_step,
    share_of_targets,
    watts_between,
)
from minilm.model import Transformer, training_flops
from minilm.objectives import ChunkedNLL, Objective, Task
from minilm.shape import FAMILY

CPU = Machine(torch.device("cpu"), bfloat16=False, why="a test")
SHAPE = ModelConfig(vocab_size=300, max_length=8, d_model=16, n_layers=2, n_heads=2, d_ff=40)


def plan(**flags) -> PretrainConfig:
    tiny = dict(vocab_size=300, max_length=8, d_model=16, n_layers=2, n_heads=2, batch_size=4)
    return PretrainConfig(**tiny | flags).with_defaults()


@pytest.mark.parametrize(
    "changes", [dict(positions="learned"), dict(normalise_qk=False), *FAMILY.values()]
)
def test_parameters_are_counted_without_a_model(changes):
    shape = dataclasses.replace(SHAPE, **changes)
    assert count_parameters(shape) == sum(p.numel() for p in Transformer(shape).parameters())


def test_sixteen_bytes_a_parameter_are_the_weight_its_gradient_and_two_moments():
    trainer = make_trainer(plan(optimizer="adamw"), SHAPE, CPU)
    trainer.step(0)
    weights = list(trainer.model.parameters())
    moments = [
        tensor
        for state in trainer.optimizers[0].state.values()
        for tensor in state.values()
        if tensor.dim()
    ]
    held = sum(tensor.nbytes for tensor in (*weights, *weights, *moments))  # a gradient is as large
    assert held == room.BYTES_A_PARAMETER * count_parameters(SHAPE)


@pytest.mark.parametrize("name", ["causal", "masked", "hybrid"])
def test_the_share_of_targets_is_what_training_will_ask_for(name):
    config, steps = plan(objective=name, mask_rate=0.4), 400
    objective = Objective(name, config.vocab_size, config.seed)
    windows = torch.randint(3, 300, (8, 33)).numpy()
    rates = (config.mask_rate * (1 - 0.5 * step / steps) for step in range(steps))
    counts = [objective.task(windows, step, rate).count for step, rate in enumerate(rates)]
    assert share_of_targets(config) == pytest.approx(sum(counts) / (steps * 8 * 32), rel=0.05)


class Square(torch.nn.Module):
    """(x V W)²: its backward pass needs x and x V for the gradients of V and W, W, and x V W."""

    def __init__(self):
        super().__init__()
        self.V, self.W = (torch.nn.Parameter(torch.ones(shape)) for shape in ((5, 7), (7, 2)))

    def forward(self, x, *_):
        result = x @ self.V @ self.W
        return (result * result).sum(), 1


def test_what_the_backward_pass_needs_is_counted_once_and_without_the_weights():
    x = torch.ones(3, 5).numpy()
    assert kept_for_backward(Square(), Task(x, x, True), CPU) == 4 * 3 * (5 + 7 + 2)


@pytest.mark.parametrize(
    "kinds, times, seconds, expected",
    [
        (2, [30, 50, 1, 3, 50, 70, 2, 6], 211.5, 4),  # rounds of 40, 2, 60 and 4 a step
        (1, [9, 5], 0, 5),  # however long the first takes, there is a second
    ],
)
def test_the_median_round_counts_and_the_first_never(monkeypatch, kinds, times, seconds, expected):
    now, steps = [0], []

    class Clockwork:
        machine = CPU

        def step(self, step):
            steps.append(step)
            now[0] += times[step]

    monkeypatch.setattr(room.time, "perf_counter", lambda: now[0])
    assert seconds_per_step(Clockwork(), kinds, seconds) == expected
    assert steps == list(range(len(times)))


def test_the_plan_and_the_measurement_make_the_estimate(monkeypatch):
    monkeypatch.setattr(room, "seconds_per_step", lambda *_: 0.5)
    monkeypatch.setattr(room, "energy_counters", list)
    found = estimate(plan(steps=7200, objective="masked"), CPU, watts=20)
    assert found.seconds == 3600 and found.watt_hours == pytest.approx(20)
    assert found.tokens == 7200 * 4 * 8
    shape = dataclasses.replace(SHAPE, d_ff=64)
    flops = training_flops(shape, found.tokens, 0.75 * 0.3 * found.tokens, 8)
    assert found.flops == pytest.approx(flops)
    assert found.flops_per_second == pytest.approx(flops / 3600)
    report = found.report()
    for fact in ("7,200 of 32 tokens", "1 h 0 min", "20.0 Wh at 20 W (as given)", "64 tokens/s"):
        assert fact in report


def test_minutes_become_as_many_steps_as_fit(monkeypatch):
    monkeypatch.setattr(room, "seconds_per_step", lambda *_: 0.5)
    assert estimate(plan(minutes=3), CPU).steps == 360


@pytest.mark.parametrize("objective", ["causal", "masked", "hybrid"])
def test_a_measurement_takes_the_time_it_is_given_and_no_text(objective, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = estimate(plan(objective=objective), CPU, measure=0.1)
    assert 0 < found.flops_per_second < found.matrix_rate
    assert found.watts > 0 and found.activation_memory > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_small_batches_tell_the_memory_of_a_large_one(monkeypatch, accumulate):
    monkeypatch.setattr(room, "seconds_per_step", lambda *_: 0.5)
    # Windows of ROUND targets: with others, what fills up the loss's last chunk counts, too.
    length = ChunkedNLL.ROUND
    config = plan(objective="causal", max_length=length, batch_size=64, accumulate=accumulate)
    loss = make_trainer(config, config.model(300), CPU).loss
    kept = kept_for_backward(loss, random_task(config, 0, 64 // accumulate), CPU)
    assert estimate(config, CPU).activation_memory == pytest.approx(2 * kept, rel=1e-3)


@pytest.mark.parametrize(
    "flags, remedy",
    [(dict(d_model=8192, n_layers=99), "--d-model"), (dict(batch_size=10**6), "--accumulate")],
)
def test_what_does_not_fit_is_said_before_it_is_tried(monkeypatch, flags, remedy):
    monkeypatch.setattr(room, "memory_of", lambda device: 2_000_000_000)
    monkeypatch.setattr(room, "seconds_per_step", lambda *_: pytest.fail("tried"))
    with pytest.raises(UserError, match=f"and there are 2.0 GB: give .*{remedy}"):
        estimate(plan(**flags), CPU)


def test_power_is_read_from_the_processors_counters(tmp_path):
    domains = [("package-0", 5_000_000), ("package-1", 9_000_000), ("psys", 1)]
    for i, (name, energy) in enumerate(domains):
        folder = tmp_path / f"intel-rapl:{i}"
        folder.mkdir()
        facts = dict(name=name, energy_uj=energy, max_energy_range_uj=10_000_000)
        for file, value in facts.items():
            (folder / file).write_text(f"{value}\n")
    before = energy_counters(tmp_path)
    assert before == [(5_000_000, 10_000_000), (9_000_000, 10_000_000)]
    after = [(8_000_000, 10_000_000), (1_000_000, 10_000_000)]  # 3 J, and 2 J around the end
    assert watts_between(before, after, seconds=2) == pytest.approx(2.5)


def test_without_counters_the_power_is_assumed_and_said(tmp_path, monkeypatch):
    assert energy_counters(tmp_path / "nowhere") == [] and watts_between([], [], 1.0) is None
    (tmp_path / "intel-rapl:0").mkdir()  # but nothing in it can be read
    assert energy_counters(tmp_path) == []
    monkeypatch.setattr(room, "energy_counters", list)
    monkeypatch.setattr(room, "seconds_per_step", lambda *_: 0.5)
    found = estimate(plan(), CPU)
    assert found.watts == room.WATTS["cpu"] * torch.get_num_threads()
    assert "assumed" in found.report()
