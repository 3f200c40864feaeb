"""Fine-tuning as the loop needs it: a task's loss, batches and evaluation, with pretrained weights
and a new head."""

from minilm.fast import compute
from minilm.runs.device import Machine
from minilm.runs.loop import Training
from minilm.runs.pretraining import require_memory
from minilm.training import Plan


class Finetuning(Training):
    """A Transformer under a task's head, and how the options (`FinetuneConfig`) train both on the
    task's labelled texts."""

    def __init__(self, transformer, config, task, machine: Machine):
        longest = max(len(row.tokens) for row in task.data["train"])
        rows = -(-len(task.data["train"]) // (task.steps_per_epoch * config.accumulate))
        require_memory(transformer.config, machine, rows * longest, longest)
        transformer.requires_grad_(not config.freeze)
        # Texts have all lengths: their blocks are not compiled by default.
        compiled = bool(config.compile) and compute.compiles(True, machine.device)
        layer_decay = 1.0 if config.from_scratch else config.layer_decay
        super().__init__(task.model(transformer), task.loss, config, machine, compiled,
                         layer_decay=layer_decay)  # fmt: skip
        steps, self.task = task.epochs * task.steps_per_epoch, task
        self.plan = Plan(steps, warmup=0.1, cooldown=0.9, seed=config.seed)
        self.evaluate_every, self.patience = task.evaluate_every, task.patience

    def batch(self, step: int) -> list[tuple]:
        return self.machine.share_out(self.task.batch(step), self.config.accumulate)

    def evaluate(self) -> tuple[float, dict]:
        """How far validation is from perfect, and all that was measured."""
        with compute.eager():
            return self.task.evaluate(self.loss.refresh(), "valid")
