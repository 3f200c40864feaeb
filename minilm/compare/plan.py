"""What is asked before anything is trained: arms, outcomes, the pairs compared, the budget.

Imports nothing heavy, so that `--help` answers at once.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from minilm.cli.options import Options, flag
from minilm.config import SIZES, UserError

LEVEL = 0.05  # the chance that any declared comparison is called real though none is
OUTCOMES = {
    "swapped": "swapped neighbours: of a held-out window of 24 tokens and the same window with two "
    "neighbours exchanged, is the original the likelier one?",
    "labels": "few labels: is the label of a test text right after fine-tuning on a few?",
}
BAG = "bag of tokens"
BAG_IS = "TF-IDF of the very tokens that the models read, logistic regression; it knows no order"
RATES = Path(__file__).with_name("rates.json")  # what a sweep found, its command and its results
PLACES = 6  # of a pretraining, evenly spaced, at which it is evaluated
SPARSE = 0.15  # of the positions have a target in the sparse-causal arm
MASK_RATE = 0.3  # at first; falls to half of it, in a line


class Arm(NamedTuple):
    """One way to pretrain. The rest is the same for all: model, text, windows, budget."""

    name: str
    about: str
    objective: str | None  # whose learning rate it takes; None: not pretrained
    reads: tuple[str, ...]  # the attention it was trained with; the first scores its pairs
    shift: int = 0  # of masked targets


def arm(name: str) -> Arm:
    """The arm of a name. "hybrid-0.25": a hybrid with that share of its steps masked.

    Raises UserError where there is none."""
    both, share = ("causal", "masked"), masked_share(name)
    if share is not None:
        return Arm(
            name, f"each step masked with probability {share:g}, else causal", "hybrid", both, 1
        )
    arms = (
        Arm("scratch", "random weights, not pretrained", None, ("causal",)),
        Arm("causal", "next token, at every position", "causal", ("causal",)),
        Arm("masked", "masked tokens, 30 % of them falling to 15 %", "masked", ("masked",)),
        Arm("causal-then-masked", "causal for half of its steps, then masked", "masked",
            ("masked",), 1),
        Arm("sparse-causal", "causal with a target at 15 % of the positions, as few as masked has",
            "causal", ("causal",)),
    )  # fmt: skip
    for known in arms:
        if known.name == name:
            return known
    names = ", ".join(known.name for known in arms)
    raise UserError(f"--arms {name}: choose from {names}, hybrid, hybrid-SHARE (hybrid-0.25)")


def masked_share(name: str) -> float | None:
    """The share of masked steps of a hybrid arm; None for other arms.

    >>> masked_share("hybrid"), masked_share("hybrid-0.25"), masked_share("causal")
    (0.5, 0.25, None)
    """
    kind, _, share = name.partition("-")
    try:
        value = float(share or 0.5)
    except ValueError:
        return None
    return value if kind == "hybrid" and 0 <= value <= 1 else None


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


def share_of_targets(name: str) -> float:
    """The expected share of positions that an arm has a target at, over all of its steps."""
    masked = 0.75 * MASK_RATE  # its mean on the way down
    share = {"causal": 0.0, "sparse-causal": 0.0, "masked": 1.0, "causal-then-masked": 0.5}
    of_masked = share.get(name, masked_share(name) or 0.0)
    return SPARSE if name == "sparse-causal" else of_masked * masked + 1 - of_masked


@dataclass
class CompareOptions(Options):
    """The flags of `python -m minilm compare`."""

    data: str = flag("python-docs", "a corpus with labels (python-docs, imdb, sms-spam)")
    size: str = flag("tiny", "of the model", choices=list(SIZES))
    arms: list[str] = flag(
        ["scratch", "causal", "masked", "hybrid"], "what is compared; also causal-then-masked, "
        "sparse-causal, and hybrid-SHARE of masked steps, such as hybrid-0.25",
        nargs="+", metavar="ARM",
    )  # fmt: skip
    seeds: int = flag(3, "pretrainings of each arm, each with a seed of its own", 1, 1000)
    budget: str = flag(
        "tokens", "what every arm gets the same of, as much as the causal one; all are reported",
        choices=["tokens", "flops", "seconds", "targets"],
    )  # fmt: skip
    steps: int | None = flag(
        None, "of the causal arm's pretraining (default: tiny 400, else by --size)", PLACES
    )
    batch_size: int | None = flag(
        None, "windows in a step of pretraining (default: tiny 16, else by --size)", 1, 2**20
    )
    labels: int = flag(300, "labelled texts of a fine-tuning", 2)
    finetunings: int = flag(2, "of each pretraining, with labelled texts of their own", 1, 100)
    pairs: int = flag(1500, "swapped neighbours to judge, at most", 10)
    rows: int = flag(2000, "test texts, at most", 10)
    max_length: int | None = flag(
        None, "of longer labelled texts head and tail are kept, in tokens (default: as pretrained)",
        3, 2**16,
    )  # fmt: skip
    blimp: str | None = flag(
        None, "a folder of BLiMP's .jsonl files: minimal pairs by phenomenon", metavar="FOLDER"
    )
    sweep: bool = flag(False, "first find the learning rates, for other data or another size")
    report: bool = flag(False, "only draw the report of --run, or of the newest comparison, again")

    def __post_init__(self):
        super().__post_init__()
        self.arms = list(dict.fromkeys(arm(name).name for name in self.arms))
        if self.report and self.resume:
            raise UserError("--report trains nothing, so there is nothing to --resume: give one")

    def pace(self) -> tuple[int, int]:
        """(steps, batch size) of the causal arm's pretraining, a multiple of PLACES steps."""
        size = SIZES[self.size]
        quick = {"steps": 400, "batch_size": 16} if self.size == "tiny" else {}
        steps = self.steps or quick.get("steps", size["steps"])
        batch_size = self.batch_size or quick.get("batch_size", size["batch_size"])
        return max(1, round(steps / PLACES)) * PLACES, batch_size


def rates() -> dict:
    """The learning rates that the sweep found: {"pretraining": {objective: rate}, "finetuning":
    {objective or "scratch": rate}}."""
    return json.loads(RATES.read_text(encoding="utf-8"))["chosen"]
