"""What is asked before anything is trained: arms, outcomes, the pairs compared, the budget.

Two primary outcomes: swapped neighbours (of a held-out window and the same window with two
neighbours exchanged, is the original the likelier one?), and accuracy after fine-tuning on few
labels. Nothing heavy is imported here, so that `--help` answers at once.
"""

import contextlib
from dataclasses import dataclass
from typing import NamedTuple

from minilm.cli.options import Options, flag
from minilm.config import SIZES, UserError

LEVEL = 0.05  # the chance that any declared comparison is called real though none is
BAG = "bag of tokens"  # the baseline
BUDGETS = ["tokens", "targets", "flops", "seconds"]  # all of them are reported
PLACES = 6  # of a pretraining, evenly spaced, at which it is evaluated
SPARSE = 0.15  # of the positions have a target in the sparse-causal arm
MASK_RATE = 0.3  # at first; falls to half of it, in a line
QUICK = {"tiny": dict(steps=400, batch_size=16)}  # instead of what config.SIZES says


class Arm(NamedTuple):
    """One way to pretrain. The rest is the same for all: model, text, windows, budget."""

    name: str
    about: str
    objective: str | None  # whose learning rate it takes; None: not pretrained
    reads: tuple[str, ...]  # the attention it was trained with; the first scores its pairs
    masked_share: float = 0.0  # of its steps
    shift: int = 0  # of masked targets

    @property
    def target_share(self) -> float:
        """The expected share of positions that have a target, over all steps."""
        if self.name == "sparse-causal":
            return SPARSE
        return self.masked_share * 0.75 * MASK_RATE + 1 - self.masked_share


ARMS = {arm.name: arm for arm in (
    Arm("scratch", "random weights, not pretrained", None, ("causal",)),
    Arm("causal", "next token, at every position", "causal", ("causal",)),
    Arm("masked", "masked tokens, 30 % of them falling to 15 %", "masked", ("masked",), 1.0),
    Arm("causal-then-masked", "causal for half of its steps, then masked", "masked", ("masked",),
        0.5, shift=1),
    Arm("sparse-causal", "causal, with a target at 15 % of the positions", "causal", ("causal",)),
)}  # fmt: skip


def arm(name: str) -> Arm:
    """The arm of a name; of "hybrid-0.25" a hybrid with that share of its steps masked, of "hybrid"
    with half. Raises UserError where there is none."""
    kind, _, share = name.partition("-")
    with contextlib.suppress(ValueError):
        if kind == "hybrid" and 0 <= (p := float(share or 0.5)) <= 1:
            about = f"each step masked with probability {p:g}, else causal"
            return Arm(name, about, "hybrid", ("causal", "masked"), p, shift=1)
    if name not in ARMS:
        raise UserError(f"--arms {name}: choose from {', '.join(ARMS)}, hybrid, hybrid-SHARE "
                        f"(hybrid-0.25)")  # fmt: skip
    return ARMS[name]


def declared(arms: list[str]) -> list[tuple[str, str]]:
    """The pairs of arms that are compared, in each primary outcome: every pretrained arm with
    scratch and with the bag of tokens, and the pretrained arms with each other.

    >>> declared(["scratch", "causal", "masked"])[:3]
    [('causal', 'scratch'), ('causal', 'bag of tokens'), ('masked', 'scratch')]
    """
    trained = [name for name in arms if name != "scratch"]
    against = ["scratch"] * ("scratch" in arms) + [BAG]
    pairs = [(a, b) for a in trained for b in against]
    return pairs + [(a, b) for i, a in enumerate(trained) for b in trained[i + 1 :]]


@dataclass
class CompareOptions(Options):
    """The flags of `python -m minilm compare`."""

    data: str = flag("python-docs", "a corpus with labels (python-docs, imdb, sms-spam)")
    size: str = flag("tiny", "of the model", choices=list(SIZES))
    arms: list[str] = flag(
        ["scratch", "causal", "masked", "hybrid"], "what is compared; also causal-then-masked, "
        "sparse-causal, and hybrid-SHARE of masked steps", nargs="+", metavar="ARM",
    )  # fmt: skip
    seeds: int = flag(3, "pretrainings of each arm, each with a seed of its own", 1, 1000)
    budget: str = flag("tokens", "what all arms get as much of as the causal one", choices=BUDGETS)
    steps: int | None = flag(None, "of the causal arm (default: tiny 400, else by --size)", PLACES)
    batch_size: int | None = flag(None, "windows in a step (default: tiny 16, else by --size)", 1)
    labels: int = flag(300, "labelled texts of a fine-tuning", 2)
    finetunings: int = flag(2, "of each pretraining, with labelled texts of their own", 1, 100)
    pairs: int = flag(1500, "swapped neighbours to judge, at most", 10)
    rows: int = flag(2000, "test texts, at most", 10)
    max_length: int | None = flag(None, "tokens of a labelled text, head and tail", 3, 2**16)
    blimp: str | None = flag(None, "BLiMP's .jsonl files: minimal pairs", metavar="FOLDER")
    sweep: bool = flag(False, "first find the learning rates, for other data or another size")
    report: bool = flag(False, "only draw the report of --run, or of the newest comparison, again")

    def __post_init__(self):
        super().__post_init__()
        self.arms = [arm(name).name for name in dict.fromkeys(self.arms)]

    def pace(self) -> tuple[int, int]:
        """(steps, batch size) of the causal arm's pretraining, a multiple of PLACES steps."""
        size = SIZES[self.size] | QUICK.get(self.size, {})
        places = max(1, round((self.steps or size["steps"]) / PLACES))
        return places * PLACES, self.batch_size or size["batch_size"]
