"""Which objective is better for what? One question, asked beforehand (`plan.py`) and answered with
its error (`statistics.py`): `python -m minilm compare`."""

from importlib.util import find_spec

from minilm.compare.plan import CompareOptions
from minilm.config import UserError


def compare(options: CompareOptions) -> None:
    """Do a comparison, or what is left of it, and draw its report; with --report draw it again.
    Raises UserError, and Stopped where a signal came."""
    if not all(map(find_spec, ("jinja2", "scipy", "sklearn"))):
        needs = "a comparison needs jinja2, scipy and scikit-learn"
        raise UserError(f'{needs}: pip install "minilm[compare]"')
    from minilm.compare import experiment, report

    report.write(experiment.compare(options))
