"""What is asked before anything is trained: arms, outcomes, the pairs compared, the budget.

Two primary outcomes: swapped neighbours (of a held-out window and the same window with two
neighbours exchanged, is the original the likelier one?), and accuracy after fine-tuning on few
labels. Nothing heavy is imported here, so that `--help` answers at once.
"""

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
QUICK = {"tiny": (400, 16)}  # steps, batch size; of other sizes their own


class Arm(NamedTuple):
    """One way to pretrain. The rest is the same for all: model, text, windows, budget."""

    name: str
    about: str
    objective: str | None  # whose learning rate it takes; None: not pretrained
    reads: tuple[str, ...]  # the attention it was trained with; the first scores its pairs
    shift: int = 0  # of masked targets


ARMS = (
    Arm("scratch", "random weights, not pretrained", None, ("causal",)),
    Arm("causal", "next token, at every position", "causal", ("causal",)),
    Arm("masked", "masked tokens, 30 % of them falling to 15 %", "masked", ("masked",)),
    Arm(
        "causal-then-masked", "causal for half of its steps, then masked", "masked", ("masked",), 1
    ),
    Arm("sparse-causal", "causal, with a target at 15 % of the positions", "causal", ("causal",)),
)


def arm(name: str) -> Arm:
    """The arm of a name. "hybrid-0.25": a hybrid with that share of its steps masked.

    Raises UserError where there is none."""
    share = masked_share(name)
    if share is not None:
        about = f"each step masked with probability {share:g}, else causal"
        return Arm(name, about, "hybrid", ("causal", "masked"), shift=1)
    found = next((known for known in ARMS if known.name == name), None)
    if found is None:
        names = ", ".join(known.name for known in ARMS)
        raise UserError(f"--arms {name}: choose from {names}, hybrid, hybrid-SHARE (hybrid-0.25)")
    return found


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


def share_of_targets(name: str) -> float:
    """The expected share of positions that an arm has a target at, over all of its steps."""
    known = {"causal": 0.0, "masked": 1.0, "causal-then-masked": 0.5}
    share = known.get(name, masked_share(name))  # of steps that are masked
    return SPARSE if share is None else share * 0.75 * MASK_RATE + 1 - share


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
        self.arms = list(dict.fromkeys(arm(name).name for name in self.arms))
        if self.report and self.resume:
            raise UserError("--report trains nothing, so there is nothing to --resume: give one")

    def pace(self) -> tuple[int, int]:
        """(steps, batch size) of the causal arm's pretraining, a multiple of PLACES steps."""
        size = SIZES[self.size]
        steps, batch_size = QUICK.get(self.size, (size["steps"], size["batch_size"]))
        whole = max(1, round((self.steps or steps) / PLACES)) * PLACES
        return whole, self.batch_size or batch_size
