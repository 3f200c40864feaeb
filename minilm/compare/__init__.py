"""Which objective is better for what? One question, asked beforehand (`plan.py`) and answered with
its error (`statistics.py`): `python -m minilm compare`."""

from minilm.compare.plan import CompareOptions


def compare(options: CompareOptions) -> None:
    """Do a comparison, or what is left of it, and draw its report; with --report draw it again.
    Raises UserError, and Stopped where a signal came."""
    from minilm.compare import experiment, report, statistics
    from minilm.runs.run import Run, newest_run

    statistics.student()  # what is missing is said before hours of work
    if not options.report:
        return report.write(experiment.compare(options))
    run = Run(options.run or newest_run("compare"))
    asked = CompareOptions(**run.of_kind("compare")["flags"])
    report.write(experiment.Experiment(asked, run.folder))
