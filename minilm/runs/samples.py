"""What a language model makes of a validation text, for people to read while it trains."""

import numpy as np

from minilm.generate import fill_masks, sample


def show_language_model(model, tokenizer, text: np.ndarray, config) -> str:
    """The beginning of a text (T,) continued, or tokens of it masked and filled in, whichever the
    objective trains: lines to print."""
    special = tokenizer.special
    ordinary = (text >= special.ordinary.start) & (text < special.ordinary.stop)
    tokens = text[ordinary][: min(24, model.config.max_length - 2)]
    shown = []
    if config.objective != "masked":
        begin = tokens[:8]
        more = list(sample(model, begin, 24, special))
        shown.append(f"continued: {_line(tokenizer, begin)}[{_line(tokenizer, more)}]")
    if config.objective != "causal":
        masked = tokens.copy()
        masked[4::6] = special.mask
        best = iter(fill_masks(model, masked, special, causal=False, shift=config.shift, top=1))
        parts = [
            f"[{_line(tokenizer, [next(best)[0][0]])}]" if token == special.mask
            else _line(tokenizer, [token])
            for token in masked
        ]  # fmt: skip
        shown.append(f"filled in: {''.join(parts)}")
    return "".join(f"\n    {line}" for line in shown)


def _line(tokenizer, tokens) -> str:
    return tokenizer.decode(tokens).replace("\n", "⏎")
