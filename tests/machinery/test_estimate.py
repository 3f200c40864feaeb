"""An estimate: what can be counted is counted right, and what is measured is put together right."""

import dataclasses
import math
import resource

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from minilm.config import ModelConfig, UserError
from minilm.model import Transformer
from minilm.objectives import language_model_nll
from minilm.runs import pretraining as page
from minilm.runs.device import Machine
from minilm.runs.pretraining import estimate, one_of_each_kind, require_memory, training_flops
from minilm.runs.run import make_model
from tests.machinery.tiny import CPU, SHAPE, Training, saved


def planned(training, **options):
    return estimate(training, measure=0, **options)


def test_an_estimate_leaves_no_trace_in_the_training(tmp_path):
    training = Training()
    planned(training)
    training.run(tmp_path / "estimated")
    Training().run(tmp_path / "plain")
    assert saved(tmp_path / "estimated") == saved(tmp_path / "plain")


def test_the_median_round_counts_and_what_the_first_takes_more_is_the_start(monkeypatch):
    times = [30, 50, 1, 3, 50, 70, 2, 6]  # seconds of each step; a round is two of them
    now, training = [0.0], Training("causal", accumulate=1)

    def slow(*batch):
        now[0] += times.pop(0)
        return training.formula(*batch)

    monkeypatch.setattr(page.time, "perf_counter", lambda: now[0])
    training.loss.formula, rounds = slow, one_of_each_kind(training.batch, 0) * 2
    assert page.measured(training, rounds, seconds=211.5) == (72, 4, 6 * 12, 6 * 12) and not times


def test_the_plan_and_the_measurement_of_a_step_of_each_kind_make_the_estimate(monkeypatch):
    for objective, kinds in (("causal", [True]), ("hybrid", [False, True])):
        rounds = one_of_each_kind(Training(objective).batch, 4)
        assert sorted(micro_batches[0][2] for micro_batches in rounds) == kinds
    monkeypatch.setattr(page, "measured", lambda *_: (60.0, 0.5, 72.0, 20.0))
    steps, said = planned(Training(steps=7200))
    parameters = sum(p.numel() for p in Transformer(SHAPE).parameters())
    flops = training_flops(SHAPE, 7200 * 72, 7200 * 20, 12)
    for fact in (f"{parameters:,}\n", "7,200 of 72 tokens", f"{flops:.2e}", " 1.0 hours",
                 "60 seconds to get started", "142 tokens/s"):  # fmt: skip
        assert fact in said
    assert steps == 7200
    assert [planned(Training(), minutes=minutes)[0] for minutes in (2, 0.01)] == [120, 10]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("d_model, length", [(64, 256), (128, 64)])
def test_the_memory_of_activations_is_twice_what_the_forward_pass_keeps(d_model, length, dtype):
    shape = ModelConfig(8, length, d_model, n_layers=3, n_heads=4, d_ff=3 * d_model)
    model, kept, machine = make_model(shape).to(dtype), {}, dataclasses.replace(CPU, dtype=dtype)
    tokens = torch.zeros(8, length, dtype=torch.int64)

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        _result = language_model_nll(model, tokens, tokens, True)
    for weight in model.parameters():
        kept.pop(weight.untyped_storage().data_ptr(), None)
    there = require_memory(shape, machine)
    predicted = require_memory(shape, machine, tokens.numel(), length) - there
    assert predicted == pytest.approx(2 * sum(kept.values()), rel=0.1)


def test_a_run_that_does_not_fit_is_refused_before_anything_is_built(monkeypatch):
    large = dataclasses.replace(SHAPE, d_model=1024, n_layers=4, d_ff=4096)
    monkeypatch.setattr(page.os, "sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 10**9}.get)
    require_memory(SHAPE, CPU)
    with pytest.raises(UserError, match=r"needs about 1\.\d GB of memory, and there are 1\.0 GB"):
        require_memory(large, CPU)
    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"there are 0\.1 GB"):
        patch.setattr(resource, "getrlimit", lambda _: (10**8, 10**8))
        require_memory(SHAPE, CPU)
    half = Machine(CPU.device, torch.bfloat16)
    full, halved = (require_memory(SHAPE, machine, 10**5, 12) for machine in (CPU, half))
    assert halved < full < math.inf


def test_the_formula_for_flops_equals_a_count_of_the_products_done():
    model = Transformer(SHAPE)
    with FlopCounterMode(display=False) as counter:
        hidden = model(torch.zeros(2, 6, dtype=torch.long), causal=True).flatten(0, 1)  # (12, D)
        model.logits(hidden[:5]).sum().backward()
    assert training_flops(model.config, 12, 5, length=6) == counter.get_total_flops()
