"""Which objective is better for what? One question, asked beforehand (`plan.py`) and answered with
its error (`statistics.py`): `python -m minilm compare`."""
