"""What is asked before anything is trained: arms, differences, predictions.

An arm is a line of flags of train_pretrain.py; all else is the same for all of them. Two primary
outcomes: swapped neighbours (of a held-out window and the same window with two neighbours
exchanged, is the original the likelier one?), and accuracy after fine-tuning on few labels."""

import re
import shlex
from dataclasses import dataclass
from typing import NamedTuple

from minilm.cli.flags import flag, flag_name, parse_flags
from minilm.cli.options import Options, PretrainConfig
from minilm.config import SIZES, UserError

LEVEL = 0.05  # the chance that any declared difference is called real though none is
BAG = "bag of tokens"  # the baseline
SCRATCH = "scratch"  # the arm that is not pretrained
QUICK = {"tiny": dict(steps=400)}  # instead of what config.SIZES says
SWEEP, SWEEP_SEED = (0.5, 1.0, 2.0), 1_000_001  # times an arm's rate; a seed of no comparison
ARMS = {
    SCRATCH: None,
    "causal": "--objective causal",
    "masked": "--objective masked",
    "hybrid": "--objective hybrid",
    # From causal to both-sides (which is masked, but for where a token is predicted) each arm
    # differs from the one before it in one thing.
    "fewer-targets": "--objective causal --target-share 0.3",
    "corrupted": "--objective causal --target-share 0.3 --corrupt",
    "both-sides": "--objective masked --shift 1",
}
# The attention that a model of an objective was trained with; the first scores its pairs.
READS = {"causal": ["causal"], "masked": ["masked"], "hybrid": ["causal", "masked"]}
DEFAULT = [SCRATCH, "causal", "masked", "hybrid"]
FACTORS = [SCRATCH, "causal", "fewer-targets", "corrupted", "both-sides", "hybrid"]
PASSES, OBJECTIVES, HALVES = (1, 4, 16), ("causal", "masked", "hybrid"), ("", "-half")


class Question(NamedTuple):
    """A difference that is declared beforehand, in both outcomes: a sum of weighted arms; and in
    which outcome it is predicted to be above 0, and why."""

    name: str
    weights: dict[str, float]
    predicted: dict[str, str] = {}  # noqa: RUF012


@dataclass
class CompareOptions(Options):
    """The flags of `python -m minilm compare`."""

    data: str = flag("python-docs", "a corpus with labels (python-docs, imdb, sms-spam)")
    size: str = flag("tiny", "of the model, unless an arm names another", choices=list(SIZES))
    arms: list[str] = flag([], f"of {', '.join(ARMS)} (default: {' '.join(DEFAULT)})", nargs="+",
                           metavar="ARM")  # fmt: skip
    arm: list[str] = flag([], "an arm of your own, any flags of train_pretrain.py, such as "
                          '"muon: --optimizer muon"; can be repeated', action="extend",
                          metavar="NAME: FLAGS")  # fmt: skip
    factors: bool = flag(False, f"compare what separates causal from masked: {' '.join(FACTORS)}")
    grid: bool = flag(False, "compare objectives by passes over the text (1, 4, 16) and two sizes")
    sweep: bool = flag(False, "first find each arm's learning rate: half, once, twice its own")
    seeds: int = flag(3, "pretrainings of each arm, each with a seed of its own", 1, 1000)
    steps: int | None = flag(None, "of a pretraining (default: tiny 400, else by --size)", 1)
    batch_size: int | None = flag(None, "windows in a step (default: tiny 16, else by --size)", 1)
    labels: int = flag(300, "labelled texts of a fine-tuning, validation among them", 2)
    finetunings: int = flag(2, "of each pretraining, with labelled texts of their own", 1, 100)
    pairs: int = flag(1500, "swapped neighbours to judge, at most", 10)
    rows: int = flag(2000, "test texts, at most", 10)
    max_length: int | None = flag(None, "tokens of a labelled text, head and tail", 3, 2**16)
    report: bool = flag(False, "only draw the report of --run, or of the newest comparison, again")


def arms_of(options: CompareOptions) -> dict[str, str | None]:
    """{name: its flags, None: not pretrained}. Raises UserError where they cannot be compared."""
    if unknown := [name for name in options.arms if name not in ARMS]:
        raise UserError(f"--arms {unknown[0]}: choose from {', '.join(ARMS)}, or give --arm")
    own = grid(options) if options.grid else {}
    names = [*options.arms, *FACTORS * options.factors]
    for line in options.arm:
        name, colon, flags = map(str.strip, line.partition(":"))
        if not colon or not re.fullmatch(r"[\w.-]+", name) or name in {*ARMS, *own, BAG}:
            raise UserError(f'--arm "{line}": give "NAME: FLAGS", a new name of letters and digits')
        own[name] = flags
    arms = {name: ARMS[name] for name in names or DEFAULT * (not own)} | own
    for name in arms:
        config_of(arms, name, options)
    if not any(arms.values()):
        raise UserError("every arm is without pretraining: name another one in --arms or --arm")
    return arms


def grid(options: CompareOptions) -> dict[str, str]:
    """Objectives, each at two sizes, with the same number of tokens from ever less text."""
    config = config_of(ARMS, "causal", options).with_defaults()
    tokens = config.steps * config.batch_size * config.max_length
    half = " ".join(f"{flag_name(key)} {max(1, getattr(config, key) // 2)}"
                    for key in ("d_model", "n_layers", "n_heads"))  # fmt: skip
    return {
        f"{objective}-{passes}{size}":
        f"--objective {objective} --max-tokens {tokens // passes} {half if size else ''}".strip()
        for size in HALVES for passes in PASSES for objective in OBJECTIVES
    }  # fmt: skip


def config_of(arms: dict, name: str, options: CompareOptions, **more) -> PretrainConfig:
    """How an arm is pretrained: by its own flags, else the comparison's, else the defaults. Raises
    UserError for flags that train_pretrain.py does not take, or that belong to the comparison."""
    asked = parse_flags(PretrainConfig, "", shlex.split(arms[name] or ""), f'--arm "{name}"')
    if taken := asked.given & {"seed", "run", "resume", "minutes"}:
        raise UserError(f'--arm "{name}": leave out {flag_name(min(taken))}: it is for all arms')
    usual = SIZES[options.size] | QUICK.get(options.size, {})
    pace = {key: getattr(options, key) or usual[key] for key in ("steps", "batch_size")}
    same = {key: getattr(options, key) for key in ("size", "device", "precision", "compile")}
    same["data"] = ["python-docs" if options.data.startswith("python-docs") else options.data]
    own = {key: getattr(asked, key) for key in asked.given}
    return PretrainConfig(**same | pace | own | more)


def less(a: str, b: str, **predicted: str) -> Question:
    """Arm a less arm b."""
    return Question(f"{a}, less {b}", {a: 1.0, b: -1.0}, predicted)


def questions(arms: list[str], options: CompareOptions) -> list[Question]:
    """The differences that are asked about. By default every pretrained arm less scratch, less the
    bag of tokens, and less each other; of --factors and --grid fewer, with predictions.

    >>> [q.name for q in questions(["scratch", "causal", "masked"], CompareOptions())][:3]
    ['causal, less scratch', 'causal, less bag of tokens', 'masked, less scratch']
    """
    if options.factors:
        known = "every position teaches, not one in four"
        asked = [
            less("causal", "fewer-targets", swapped=known, labels=known),
            less("fewer-targets", "corrupted", swapped="the pairs are scored on clean text"),
            less("both-sides", "corrupted", labels="a classifier sees both sides, too"),
            less("causal", "both-sides", swapped="it learns from more targets, on clean text"),
            less("hybrid", "both-sides", swapped="half of its steps are causal"),
            less("hybrid", "causal", labels="half of its steps see both sides"),
        ]
        return asked + [less(arm, SCRATCH) for arm in FACTORS if arm != SCRATCH]
    if options.grid:
        asked, once = [], "at one pass more targets count (arXiv 2512.14549)"
        gains = "masks make repeated text new (arXiv 2512.14549)"
        for size in HALVES:
            for n in PASSES:
                first = dict(swapped=once, labels=once) if n == 1 else {}
                asked.append(less(f"causal-{n}{size}", f"masked-{n}{size}", **first))
                asked.append(less(f"hybrid-{n}{size}", f"causal-{n}{size}"))
            arms = (f"{arm}-{n}{size}" for arm in ("masked", "causal") for n in (16, 1))
            weights = dict(zip(arms, (1.0, -1.0, -1.0, 1.0), strict=True))
            name = f"masked{size}, 16 passes for 1, less the same of causal{size}"
            asked.append(Question(name, weights, dict(swapped=gains, labels=gains)))
        return asked
    trained = [name for name in arms if name != SCRATCH]
    against = [SCRATCH] * (SCRATCH in arms) + [BAG]
    asked = [less(a, b) for a in trained for b in against]
    return asked + [less(a, b) for i, a in enumerate(trained) for b in trained[i + 1 :]]
