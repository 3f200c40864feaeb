"""The flags of `python -m minilm compare`. Imports nothing heavy: `--help` answers at once."""

import dataclasses
from dataclasses import dataclass

from minilm.config import (
    SIZES,
    MachineConfig,
    UserError,
    flag,
    require_positive,
)

# What each arm is. "scratch" is not pretrained; the others are in the order in which they run.
ARMS = {
    "scratch": "the same net from random weights, not pretrained",
    "causal": "next token, at every position",
    "masked": "hidden tokens, 30 % of them falling to 15 %",
    "hybrid": "each step one of the two, by chance",
    "causal-then-masked": "the causal arm's weights from half-way, then masked",
    "sparse-causal": "causal with the loss on a random 15 % of positions: masked's few targets",
}
RATIOS = {"hybrid-0": 0.0, "hybrid-1of8": 1 / 8, "hybrid": 1 / 2, "hybrid-7of8": 7 / 8,
          "hybrid-1": 1.0}  # fmt: skip

ALL = 10**9  # more than there are
# What --quick and --full stand for. None: what --size says.
QUICK = dict(
    steps=180, batch_size=8, labels=[100, 300, 1000], length=48, epochs=3, test_rows=500,
    final_rows=ALL,
)  # fmt: skip
FULL = dict(
    steps=None, batch_size=None, labels=[100, 300, 1000, 3000, ALL], length=None, epochs=3,
    test_rows=ALL, final_rows=ALL,
)  # fmt: skip


@dataclass
class CompareConfig(MachineConfig):
    """The flags of the comparison. None: what quick or full says."""

    data: str = flag("python-docs", "a corpus with labels (python-docs, imdb, sms-spam)")
    size: str = flag("tiny", "of the net", choices=list(SIZES))
    quick: bool = flag(False, "the whole experiment in a quarter of an hour, size tiny (default)")
    full: bool = flag(False, "the size's own steps, all labels, whole texts: takes hours")
    budget: str = flag(
        "tokens", "what every arm has the same of; the others are reported",
        choices=["tokens", "flops", "seconds", "targets"],
    )  # fmt: skip
    seeds: int = flag(3, "fine-tunings of each arm, with label samples of their own")
    pretrainings: int | None = flag(
        None, "pretrainings of each arm, shared by the seeds in turn (default: one a seed)"
    )
    arms: list[str] | None = flag(
        None, f"which arms: {', '.join(ARMS)} (default: all)", nargs="+", metavar="ARM"
    )
    ratios: bool = flag(False, "also the hybrid with 0, 1/8, 7/8 and all of its steps masked")
    steps: int | None = flag(None, "of the causal arm: its budget is everyone's")
    batch_size: int | None = flag(None, "windows in a step of pretraining")
    labels: list[int] | None = flag(
        None, "sizes of the label samples, the largest for the final test", nargs="+",
        metavar="N",
    )  # fmt: skip
    draws: int = flag(10, "samples of the smallest number of labels")
    length: int | None = flag(None, "tokens of a labelled text; longer ones keep head and tail")
    epochs: int | None = flag(None, "passes over 1,000 labels or more; fewer labels get more")
    test_rows: int | None = flag(None, "test texts for the label curve and the sweep")
    final_rows: int | None = flag(None, "test texts for the final test (default: all)")
    blimp: str | None = flag(
        None, "a folder of BLiMP's .jsonl files (default: minimal pairs made here)",
        metavar="FOLDER",
    )  # fmt: skip
    run: str | None = flag(None, "folder to write to (default: a new one in runs/)")
    resume: bool = flag(False, "continue the comparison in --run, or the newest")

    def __post_init__(self):
        if self.quick and self.full:
            raise UserError("--quick and --full were both given: choose one")
        for name in self.arms or []:
            if name not in self.known_arms():
                raise UserError(f"--arms {name}: choose from {', '.join(self.known_arms())}")
        if "causal-then-masked" in (self.arms or []) and "causal" not in self.arms:
            raise UserError("--arms causal-then-masked begins with causal's weights: add causal")
        require_positive(self, "seeds", "pretrainings", "steps", "batch_size", "length", "draws")
        require_positive(self, "epochs", "test_rows", "final_rows")
        if self.length is not None and self.length < 3:
            raise UserError(f"--length is {self.length}: a text needs <doc>, a word, <doc>")
        if any(n < 2 for n in self.labels or []):
            raise UserError("--labels: give numbers of 2 or more")

    def known_arms(self) -> list[str]:
        """The arms that may be asked for."""
        return list(ARMS) + [name for name in RATIOS if name not in ARMS]

    def with_defaults(self) -> "CompareConfig":
        """Everything filled in that --quick or --full, the default, stands for."""
        table = FULL if self.full else QUICK
        size = SIZES[self.size]
        table = table | {k: size[k] for k in ("steps", "batch_size") if table[k] is None}
        if table["length"] is None:
            table = table | {"length": size["max_length"]}
        missing = {k: v for k, v in table.items() if getattr(self, k) is None}
        arms = self.arms or [*ARMS, *(set(RATIOS) - set(ARMS) if self.ratios else ())]
        order = self.known_arms()
        return dataclasses.replace(
            self,
            **missing,
            quick=not self.full,
            arms=sorted(set(arms), key=order.index),
            pretrainings=min(self.pretrainings or self.seeds, self.seeds),
        )

    def epochs_for(self, labels: int) -> int:
        """Passes over so many labels: few labels are read more often, by the cube root."""
        return max(self.epochs, round(self.epochs * (1000 / labels) ** (1 / 3)))


def about(arm: str) -> str:
    """One line on what an arm is."""
    if arm in ARMS:
        return ARMS[arm]
    return f"the hybrid with {RATIOS[arm]:.1%} of its steps masked"
