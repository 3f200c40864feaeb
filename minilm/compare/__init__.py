"""Which objective is better for what? One question, asked beforehand (`plan.py`) and answered with
its error (`statistics.py`): `python -m minilm compare`."""

from minilm.compare.plan import CompareOptions


def compare(options: CompareOptions) -> None:
    """Do a comparison, or what is left of it, and draw its report; with --report draw it again.
    Raises UserError, and Stopped where a signal came."""
    from minilm.compare import experiment, report
    from minilm.compare.statistics import student
    from minilm.config import UserError
    from minilm.runs.device import choose_machine
    from minilm.runs.run import Run, newest_run
    from minilm.runs.stopping import Stopped

    report.environment(), student()  # what is missing is said before hours of work
    if options.report:
        run = Run(options.run or newest_run("compare"))
        options = CompareOptions(**run.of_kind("compare")["flags"])
        report.write(experiment.Experiment(options, run.folder, do=False))
        return
    machine = choose_machine(options.device, options.precision)
    if machine.world > 1:
        raise UserError("a comparison runs in one process: start it without torchrun")
    try:
        report.write(experiment.compare(options, machine))
    except Stopped as stopped:  # what goes on is the comparison, not one of its pretrainings
        folder = stopped.folder.parent.parent
        raise Stopped(stopped.number, stopped.step, folder) from None
