"""Which objective is better for what? One question, asked beforehand (`plan.py`) and answered with
its error (`statistics.py`): `python -m minilm compare`."""

from importlib.util import find_spec

from minilm.compare.plan import CompareOptions
from minilm.config import UserError


def compare(options: CompareOptions) -> None:
    """Compare pretraining objectives: the same network, text and budget for each, several seeds,
    intervals, and baselines that might win. Without flags: a quarter of an hour."""
    if not all(map(find_spec, ("jinja2", "scipy", "sklearn"))):
        raise UserError("a comparison needs more: pip install jinja2 scipy scikit-learn")
    from minilm.compare import experiment, report

    report.write(experiment.compare(options))
