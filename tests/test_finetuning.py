"""Many short fine-tunings: how fast few labels are read."""

import math

import pytest

from minilm.experiments.finetuning import LEAST_STEPS, pace


@pytest.mark.parametrize("texts", [30, 200, 600, 900])
def test_few_texts_are_read_in_as_many_steps_as_it_takes_to_learn(texts):
    batch_size, _ = pace(texts, 32, 0.01)
    assert texts / batch_size >= LEAST_STEPS > texts / (batch_size + 1)


def test_the_rate_goes_with_the_square_root_of_the_batch_size():
    assert pace(8 * LEAST_STEPS, 32, 0.01) == (8, 0.005)
    for texts in (100, 500, 5000):
        size, rate = pace(texts, 32, 0.03)
        assert rate / math.sqrt(size) == pytest.approx(0.03 / math.sqrt(32))


def test_many_texts_are_read_as_the_recipe_says_and_a_batch_is_never_empty():
    assert pace(32 * LEAST_STEPS, 32, 0.01) == (32, 0.01)
    assert pace(1, 32, 0.01)[0] == 1
