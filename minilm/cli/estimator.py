"""What all loaded models share: they can be copied, pickled, and used as estimators of
scikit-learn's, which is not needed for it; and what is asked of them is checked."""

import copy
from collections.abc import Iterable, Mapping, Set

import numpy as np

from minilm.config import UserError
from minilm.huggingface.folders import pretrained_run
from minilm.runs.device import choose_machine
from minilm.runs.run import Run


class Model:
    """What all share. A loaded model is a value: what is asked of it changes nothing, so that
    threads may share it, and pickled it takes its weights along.

    Two are estimators of scikit-learn's, whose parameters are the arguments of the constructor: a
    LanguageModel makes vectors of texts, a Classifier labels them."""

    def __init__(self, run: str, device: str = "auto"):
        self.run, self.device = run, device
        self._machine, self.opened = choose_machine(device, "float32"), pretrained_run(run)
        self.tokenizer, self.config = self.opened.tokenizer, self.opened.config

    def __repr__(self):
        return f"{type(self).__name__}({str(self.run)!r})"

    def __getstate__(self) -> dict:
        state = vars(self) | dict(opened=self.opened.folder, _machine=None)
        return state | dict(model=copy.deepcopy(self.model).cpu())

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state, opened=Run(state["opened"]))
        self._machine = choose_machine(self.device, "float32")
        self.model.to(self._machine.device)

    def get_params(self, deep: bool = True) -> dict:
        """The arguments of the constructor."""
        return dict(run=self.run, device=self.device)

    def set_params(self, **params) -> "Model":
        """Open another run, or the same on another device. Returns self."""
        if params:
            self.__init__(**self.get_params() | params)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self):
        from sklearn import utils

        texts = utils.InputTags(one_d_array=True, two_d_array=False, string=True)
        labels = hasattr(self, "predict_proba")
        kind = (None, utils.ClassifierTags()) if labels else (utils.TransformerTags(), None)
        return utils.Tags("classifier" if labels else None, utils.TargetTags(required=labels),
                          *kind, input_tags=texts, requires_fit=False)  # fmt: skip

    def _ids(self, text: str) -> np.ndarray:
        if not isinstance(text, str):
            raise UserError(f"give a text, not {text!r:.40}")
        return self.tokenizer.encode(text)


def listed(texts: Iterable, pairs: bool = False) -> list:
    """The texts, or pairs of texts. Raises UserError for what is no list of them: of a single text
    the characters would be taken, of a table the names of its columns."""
    several = isinstance(texts, str | bytes | Mapping | Set) or hasattr(texts, "columns")
    if several or not isinstance(texts, Iterable) or getattr(texts, "ndim", 1) != 1:
        raise UserError(f"give a list of texts, not a {type(texts).__name__}: [text], or of a "
                        f'table one column, df["text"]')  # fmt: skip
    texts = list(texts)
    for i, item in enumerate(texts):
        parts = item if pairs and isinstance(item, tuple | list) else [item]
        if len(parts) != 1 + pairs or not all(isinstance(part, str) for part in parts):
            what = "pair (context, question)" if pairs else "text"
            raise UserError(f"item {i} is {item!r:.40}, no {what}: leave it out, or mend it")
    return texts


def at_least(low: int, **numbers) -> None:
    """Raise UserError unless these are whole numbers, and not below `low`."""
    for name, value in numbers.items():
        if not isinstance(value, int | np.integer) or value < low:
            raise UserError(f"{name} is {value!r}: give a whole number from {low} on")


def labelled(texts: Iterable, labels: Iterable) -> tuple[list, np.ndarray]:
    """Texts and their labels (N,). Raises UserError where they are not as many, or one is none."""
    texts, labels = listed(texts), list(labels)
    if len(texts) != len(labels):
        raise UserError(f"{len(texts)} texts and {len(labels)} labels: give one for each")
    if none := [i for i, label in enumerate(labels) if label is None or label != label]:
        raise UserError(f"item {none[0]} has no label: give one, or leave the text out")
    labels = np.asarray(labels)  # of whole numbers pandas makes 1.0 where one is missing
    whole = labels.dtype.kind == "f" and np.all(labels == labels.round())
    return texts, labels.astype(int) if whole else labels
