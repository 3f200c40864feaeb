"""What the two scripts can be told: one dataclass each, whose fields are its flags (`flags.py`)."""

import dataclasses
from dataclasses import dataclass

from minilm.cli.flags import Flags, flag, flag_name
from minilm.config import SIZES, UserError

DEVICES = ["auto", "cpu", "cuda", "mps"]
FAMILIES = ["ours", "gpt2", "bert", "modernbert"]
OPTIMIZERS = ["adamw", "muon"]
# What `--size` stands for on a card, whose time a small batch would waste: the same tokens in all.
ON_CUDA = dict(small=dict(batch_size=128, steps=2000, learning_rate=5e-3),
               base=dict(batch_size=256, steps=7500, learning_rate=3e-3))  # fmt: skip
ALL_SIZES = "; ".join(
    f"{name} {size['n_layers']} x {size['d_model']}, vocabulary {size['vocab_size']}, "
    f"{size['steps']} steps" for name, size in SIZES.items()
)  # fmt: skip


@dataclass
class Options(Flags):
    """Flags that every training has."""

    device: str = flag("auto", "where to compute", choices=DEVICES)
    precision: str = flag("auto", "of activations and products: bfloat16 where that is faster",
                          choices=["auto", "float32", "bfloat16"])  # fmt: skip
    compile: bool | None = flag(None, "compile the blocks (default: on CUDA, with a C compiler)")
    seed: int = flag(0, "of every random draw", high=2**63 - 1)
    run: str | None = flag(None, "folder to write to (default: a new one in runs/)")
    resume: bool = flag(False, "continue the run in --run, or the newest")


@dataclass
class PretrainConfig(Options):
    """The flags of train_pretrain.py. None: what `size` says."""

    accumulate: int = flag(1, "micro-batches that a step is computed in, to save memory", 1)
    data: list[str] = flag(["python-docs"], "corpora, text files or folders", metavar="NAME|FILE")
    text_column: str = flag("text", "the column of tables that holds the text")
    encoding: str = flag("utf-8", "the encoding of text files")
    document_separator: str | None = flag(None, "what stands between documents of a text file")
    objective: str = flag("hybrid", "next token, masked token, or each step one of the two",
                          choices=["causal", "masked", "hybrid"])  # fmt: skip
    size: str | None = flag(None, f"{ALL_SIZES} (default: tiny, or as --init)", choices=[*SIZES])
    family: str | None = flag(None, "whose model (default: ours, or as --init)", choices=FAMILIES)
    d_model: int | None = flag(None, "width of a hidden state (default: by --size)", 2, 2**20)
    n_layers: int | None = flag(None, "number of blocks (default: by --size)", 1, 2**10)
    n_heads: int | None = flag(None, "attention heads in a block (default: by --size)", 1, 2**10)
    d_ff: int | None = flag(None, "width of the feed-forward layer (default: by --size)", 1, 2**20)
    vocab_size: int | None = flag(None, "tokens to learn (default: by --size)", 259, 2**16)
    max_length: int | None = flag(None, "tokens in a window (default: by --size)", 2, 2**16)
    steps: int | None = flag(None, "updates of the weights (default: by --size)", 1)
    minutes: float | None = flag(None, "instead of --steps: as many as fit", 0.01, 1e6)
    batch_size: int | None = flag(None, "windows in a step (default: by --size)", 1, 2**20)
    learning_rate: float | None = flag(None, "at its highest (default: by --size)", 1e-9, 100)
    optimizer: str = flag("muon", "for the matrices of the blocks", choices=OPTIMIZERS)
    weight_decay: float = flag(0.1, "of the matrices", high=100)
    mask_rate: float = flag(0.3, "share of tokens masked at first; falls to half", 0.01, 0.9)
    shift: int | None = flag(None, "where a masked token is predicted: 0 in its place, 1 one "
                             "earlier (default: hybrid 1, else 0; or as --init)", 0, 1)  # fmt: skip
    corrupt: bool = flag(False, "causal: mask tokens of the inputs as for masked, predict all")
    target_share: float = flag(1.0, "share of the targets that count at first, falls as the mask "
                               "rate; masked tokens first", 0.01, 1)  # fmt: skip
    max_tokens: int | None = flag(None, "train on so many tokens of the text, in parts evenly "
                                  "spaced (default: all)", 1000)  # fmt: skip
    dropout: float = flag(0.0, "share of activations dropped", high=0.99)
    evaluations: int = flag(5, "how often to evaluate, sample and save on the way", 1, 10_000)
    init: str | None = flag(None, "start from the weights and tokenizer of this run, or hf:FOLDER")

    def __post_init__(self):
        super().__post_init__()
        if self.steps is not None and self.minutes is not None:
            raise UserError("--steps and --minutes were both given: the length is one or the other")
        if self.corrupt and self.objective != "causal":
            raise UserError("--corrupt goes with --objective causal: the others do it anyway")

    def with_defaults(self, device: str = "cpu", **inherited) -> "PretrainConfig":
        """A copy in which every None is filled: from the run that gives the first weights
        (`inherited`: its family, size, shape and shift), then from the table of sizes, by device.

        Raises UserError where a flag asks for a shape that those weights do not have."""
        for name, value in inherited.items():
            asked = getattr(self, name)
            if name not in ("max_length", "dropout", "size") and asked not in (None, value):
                raise UserError(f"{flag_name(name)} {asked}: the weights of --init have {value}; "
                                f"leave the flag out")  # fmt: skip
        size = self.size or inherited.get("size", "tiny")
        sizes = SIZES[size] | (ON_CUDA.get(size, {}) if device == "cuda" else {})
        if self.d_model:
            sizes["d_ff"] = 4 * self.d_model
        if self.minutes:
            del sizes["steps"]
        shift = int(self.objective == "hybrid")
        table = {"family": "ours", "shift": shift, **sizes, **inherited, "size": size}
        missing = {name: value for name, value in table.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **missing)


DEFAULT_DATA = {
    "classify": "python-docs", "tag": "python-docs-tags", "answer": "python-docs-answers",
    "translate": "latex-sympy",
}  # fmt: skip
TO_CLASSIFY, TO_TRANSLATE = "to classify", "to translate"


@dataclass
class FinetuneConfig(Options):
    """The flags of train_finetune.py."""

    accumulate: int = flag(1, "micro-batches that a step is computed in, to save memory", 1)
    pretrained: str | None = flag(None, "run to start from, or hf:FOLDER (default: the newest run)")
    task: str = flag("classify", "a label for a text, a tag for each word, the answer to a "
                     "question in a context, a translation", choices=[*DEFAULT_DATA])  # fmt: skip
    positions: str = flag("both", "the hidden state of a token: its own, the one before (where a "
                          "hybrid run predicts it), or both", group="to tag and to answer",
                          choices=["own", "before", "both"])  # fmt: skip
    source_column: str | None = flag(None, "column of texts (default: source)", group=TO_TRANSLATE)
    target_column: str | None = flag(None, "of translations (default: target)", group=TO_TRANSLATE)
    beam: int = flag(4, "how many beginnings go on; 1 is greedy", 1, 1000, group=TO_TRANSLATE)
    from_scratch: bool = flag(False, "the control: the same network and tokenizer, random weights")
    data: str | None = flag(None, "a corpus (default: " + ", ".join(DEFAULT_DATA.values()) + ")",
                            metavar="NAME")  # fmt: skip
    train: str | None = flag(None, "a file of your own: a table of labelled texts; to tag CoNLL "
                             "columns or .jsonl; to answer SQuAD's .json or .jsonl; to translate a "
                             "table", metavar="FILE")  # fmt: skip
    valid: str | None = flag(None, "validation texts (default: a part of train)", metavar="FILE")
    test: str | None = flag(None, "test texts, used once at the end", metavar="FILE")
    text_column: str = flag("text", "the column that holds the text", group=TO_CLASSIFY)
    label_column: str = flag("label", "the column that holds the label", group=TO_CLASSIFY)
    encoding: str = flag("utf-8", "the encoding of the files")
    labels: int | None = flag(None, "learn from this many labelled texts only, validation among "
                              "them (default: all; of python-docs 300)", 2)  # fmt: skip
    balanced: bool = flag(False, "--labels draws as many of each label as it can (default: at "
                          "random)", group=TO_CLASSIFY)  # fmt: skip
    pooling: str = flag("mean", "how a text, or to tag a word of several tokens, becomes one "
                        "vector", choices=["mean", "last", "first"])  # fmt: skip
    attention: str = flag("bidirectional", "what a position may see",
                          choices=["bidirectional", "causal"], group=TO_CLASSIFY)  # fmt: skip
    freeze: bool = flag(False, "train the head only: what do the pretrained hidden states hold?")
    layer_decay: float = flag(0.9, "each block learns by this factor slower than the next", 0.01, 1)
    max_length: int | None = flag(None, "in tokens; of longer texts head and tail are kept "
                                  "(default: as pretrained)", 3, 2**16)  # fmt: skip
    epochs: int | None = flag(None, "passes over the texts (default: to classify 3, answer 4, "
                              "tag 8, translate 10, of hf: weights at most 4; more if few)",
                              1, 10_000)  # fmt: skip
    batch_size: int | None = flag(None, "texts in a step (default: 32, fewer of up to 500 texts)",
                                  1, 2**20)  # fmt: skip
    learning_rate: float | None = flag(None, "at its highest (default: 1e-3 to classify, else "
                                       "3e-3; of hf: weights 5e-4)", 1e-9, 100)  # fmt: skip
    optimizer: str = flag("muon", "for the matrices of the blocks", choices=OPTIMIZERS)
    weight_decay: float = flag(0.05, "of the matrices", high=100)
    dropout: float = flag(0.1, "share of activations dropped", high=0.99)
    patience: int | None = flag(None, "evaluations without a better one until training ends "
                                "(default: 3; the last step where few validate)", 1)  # fmt: skip
    search: bool = flag(False, "try learning rates and optimizers, keep the best on validation")
    baselines: str = flag("auto", "what to train beside it: the same network from random weights "
                          "(auto: up to 2,000 texts) and a bag of tokens",
                          choices=["auto", "all", "bag", "none"])  # fmt: skip

    def __post_init__(self):
        super().__post_init__()
        if self.data and self.train:
            raise UserError("--data and --train were both given: name a corpus or your own file")
        if not self.train and (self.valid or self.test):
            raise UserError("--valid and --test go with --train FILE, which is missing")
        if self.attention == "causal" and self.pooling == "first":
            raise UserError("--attention causal: the first token sees nothing: pool mean or last")
        if self.task != "classify" and (self.attention == "causal" or self.pooling == "last"):
            raise UserError(f"--task {self.task}: give no --attention, and --pooling mean or first")
        if self.balanced and (self.task != "classify" or self.labels is None):
            raise UserError("--balanced: draws labels for --task classify --labels N: leave it out")
        if self.task == "translate" and self.freeze:
            raise UserError("--task translate --freeze: there is no head to train: leave one out")
        if not self.train and not self.data:
            self.data = DEFAULT_DATA[self.task]
        if self.data == "python-docs" and self.labels is None:
            self.labels = 300

    def with_defaults(self, imported: bool) -> "FinetuneConfig":
        """A copy with a learning rate: ours by the loss of the classifier, not only its accuracy;
        weights of others, which have learnt far longer, would be lost at such a rate."""
        rate = 5e-4 if imported else 1e-3 if self.task == "classify" else 3e-3
        return dataclasses.replace(self, learning_rate=self.learning_rate or rate)


def saved_options(kind, saved: dict):
    """The options that a run was started with, from its config.json. Raises UserError where they
    are not what the command line could have given."""
    try:
        return kind(**saved)
    except TypeError as error:
        raise UserError(f"config.json holds flags of another version ({error})") from None


def resumed(parsed, saved: dict):
    """The options of a run that goes on: those it was started with. Raises UserError where the
    command line (`parsed`) asks for something else."""
    original = saved_options(type(parsed), saved)
    for name in sorted(parsed.given - {"run", "resume", "minutes"}):
        now, then = getattr(parsed, name), getattr(original, name)
        if now != then:
            cure = f" with --init {parsed.run or 'RUN'}" if name == "steps" else ""
            raise UserError(f"{flag_name(name)} {now} cannot be changed on resume: the run has "
                            f"{then}. Leave the flag out, or start a new run{cure}")  # fmt: skip
    return original
