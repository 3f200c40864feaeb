"""`python -m minilm compare`: the two scripts, called for every arm, and the report."""

from importlib.util import find_spec

from minilm.compare.plan import CompareOptions
from minilm.config import UserError
from train_finetune import finetune
from train_pretrain import pretrain


def compare(options: CompareOptions) -> None:
    """Compare ways to pretrain: the same text and budget for each, several seeds, intervals, and
    baselines that might win. Without flags: the objectives; how long it takes is said first."""
    if not find_spec("scipy"):
        raise UserError("a comparison needs more: pip install scipy")
    from minilm.compare import experiment, report

    report.write(experiment.compare(options, pretrain=pretrain, finetune=finetune))
