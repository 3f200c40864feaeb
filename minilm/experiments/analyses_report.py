"""The report's sections on what is to be seen in each arm's net: see `analyses.py`."""

import html
import math

import numpy as np

from minilm.experiments.drawing import INK, colour, draw, heat_map, html_table


def sections(results: dict) -> list[tuple[str, list[str]]]:
    """Titles and their figures and tables; none where nothing was analysed."""
    found = results.get("analyses")
    if not found:
        return []
    return [
        ("Grammar", grammar(results)),
        ("Where the label lives", [probe(results), PROBE_NOTE]),
        ("What each can do", [examples(found)]),
        ("What each sees", sees(results)),
        ("Which words drove a prediction", [attributions(found)]),
        ("Is it right as often as it is sure?", [*reliability(results), calibration(found)]),
        ("Who is spoken of", fairness(results)),
    ]


PROBE_NOTE = (
    '<p class="note">A linear classifier on the mean vector after each block of the net as it was '
    "pretrained, read as it was pretrained (causally, or from both sides), nothing fine-tuned. "
    "Layer 0 is the embedding.</p>"
)


def probe(results: dict) -> str:
    """Accuracy by layer, a line an arm."""

    def paint(axes) -> None:
        """Layers across."""
        for arm, found in results["analyses"].items():
            accuracy = [100 * a for a in found["probe"]]
            axes.plot(accuracy, "o-", ms=3, label=arm, color=colour(results, arm))
        axes.set(xlabel="layer", ylabel="test accuracy, %", ylim=(0, 100))
        axes.set_xticks(range(len(accuracy)))
        axes.legend(fontsize=8, frameon=False)

    return draw(paint, "a linear probe by layer")


def examples(found: dict) -> str:
    """The same texts, continued and filled in by every arm that has learnt to."""
    rows = [["arm", "text", "what it made of it"]]
    for arm, analysis in found.items():
        for shown in analysis["examples"]:
            text, made = (
                (shown["begin"], shown["continued"])
                if "begin" in shown
                else (shown["hidden"], shown["filled"])
            )
            rows.append([arm, text, made])
    return html_table(rows)


def attributions(found: dict) -> str:
    """The texts, each word on blue where it spoke for the label that was said, on red where it
    spoke against; the deeper, the more."""
    lines = []
    for arm, analysis in found.items():
        for text in analysis["attributions"]:
            most = max(abs(score) for _, score in text["words"]) or 1.0
            words = "".join(
                f'<span style="background: rgba({"40,110,255" if score > 0 else "255,70,40"},'
                f'{0.6 * abs(score) / most:.2f})">{html.escape(word)}</span>'
                for word, score in text["words"]
            )
            said = f"{text['said']}, and it is {text['label']}"
            lines.append(f"<p><b>{arm}: {html.escape(said)}.</b> {words}</p>")
    return (
        '<p class="note">Gradient times input. Blue: for the label that was said; red: against. '
        "A straight line's view of a net that is none: it shows where to look, not why.</p>"
        + "".join(lines)
    )


def reliability(results: dict) -> list[str]:
    """One diagram an arm."""

    def panel(arm: str, bins: list[dict]) -> str:
        """Confidence across, accuracy up; on the line the two are equal."""

        def paint(axes) -> None:
            """A point a bin, as large as it has texts."""
            texts = sum(b["texts"] for b in bins)
            axes.plot([0, 100], [0, 100], ":", lw=1, color=INK)
            axes.scatter(
                [100 * b["confidence"] for b in bins], [100 * b["accuracy"] for b in bins],
                [20 + 400 * b["texts"] / texts for b in bins], color=colour(results, arm),
                alpha=0.7,
            )  # fmt: skip
            axes.set(xlabel="sure, %", ylabel="right, %", xlim=(0, 105), ylim=(0, 105))

        return draw(paint, arm, width=3.4, height=3.0)

    return [panel(arm, a["calibration"]["bins"]) for arm, a in results["analyses"].items()]


def calibration(found: dict) -> str:
    """Expected calibration error, before and after temperature scaling."""
    rows = [["arm", "calibration error", "temperature", "error after scaling"]]
    for arm, analysis in found.items():
        c = analysis["calibration"]
        scaled = f"{100 * c['error_scaled']:.1f}"
        rows.append([arm, f"{100 * c['error']:.1f}", f"{c['temperature']:.2f}", scaled])
    return html_table(rows)


def grammar(results: dict) -> list[str]:
    """Minimal pairs: the share of each phenomenon, and all of them together."""
    pairs = results.get("pairs")
    if not pairs:
        return ['<p class="note">The words of the minimal pairs are not in this text.</p>']
    rows = dict(pairs["rows"])
    for arm, analysis in results["analyses"].items():
        for reading, shares in analysis.get("pairs", {}).items():
            rows[f"{arm}, {reading}"] = shares
    names, count = list(pairs["counts"]), sum(pairs["counts"].values())
    shares = [[row.get(name, math.nan) for row in rows.values()] for name in names]
    picture = heat_map(names, list(rows), shares, "right, %", height=1.8 + 0.28 * len(names))
    half = 1.96 * math.sqrt(0.25 / count)
    means = [["", "mean over phenomena"]]
    means += [[name, f"{np.mean(list(row.values())):.1%}"] for name, row in rows.items()]
    shown = [["phenomenon", "right", "wrong", "pairs"]]
    shown += [[n, *pairs["examples"][n], str(pairs["counts"][n])] for n in names]
    return [
        picture,
        html_table(means),
        f'<p class="note">Guessing gets 50 %; over all {count:,} pairs a guesser is within '
        f"{100 * half:.0f} points of that 19 times in 20. Unigram and trigram count words and "
        f"nothing else. Causal: the sum of the words' log-probabilities. Masked: each word is "
        f"hidden in turn, with the later pieces of itself, and guessed from both sides. A causal "
        f"and a masked score are no common scale, but which of two sentences scores higher is the "
        f"same question to both. A tie counts half.</p>",
        html_table(shown),
    ]


def sees(results: dict) -> list[str]:
    """Every head's map of one sentence, and how far and how widely each head looks."""
    looks = {
        (arm, reading): look
        for arm, analysis in results["analyses"].items()
        for reading, look in analysis.get("attention", {}).items()
    }
    if not looks:
        return []
    figures = [heads(f"{arm}, {reading}", look) for (arm, reading), look in looks.items()]
    for reading in dict.fromkeys(reading for _, reading in looks):
        of_reading = {arm: look for (arm, r), look in looks.items() if r == reading}
        for what, unit in (("distance", "tokens"), ("entropy", "nats")):
            figures.append(spread(results, of_reading, reading, what, unit))
    words = " · ".join(html.escape(word) for word in next(iter(looks.values()))["words"])
    return [
        *figures,
        f'<p class="note">The maps: a tile a head, blocks from top to bottom; in a tile each row '
        f"looks, each column is looked at, and bright is much. The sentence, cut "
        f"into tokens: {words}. Dotted lines: what looking at everything visible alike would give. "
        f"Where a head looks is not why the net said what it said.</p>",
    ]


def heads(title: str, look: dict) -> str:
    """All heads' maps as one picture: layers down, heads across."""
    maps = np.array(look["maps"])  # (layers, heads, T, T)
    tiles = np.pad(maps, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    n_layers, n_heads, side, _ = tiles.shape
    picture = tiles.transpose(0, 2, 1, 3).reshape(n_layers * side, n_heads * side)

    def paint(axes) -> None:
        """Nothing but the tiles, numbered."""
        axes.imshow(picture, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        middle = (side - 1) / 2
        axes.set_xticks(middle + side * np.arange(n_heads), range(1, n_heads + 1))
        axes.set_yticks(middle + side * np.arange(n_layers), range(1, n_layers + 1))
        axes.set(xlabel="head", ylabel="block")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)

    return draw(paint, title, height=1.0 + 3.6 * n_layers / n_heads)


def spread(results: dict, looks: dict[str, dict], reading: str, what: str, unit: str) -> str:
    """The distance or the entropy of every head, by block; arms side by side."""

    def paint(axes) -> None:
        """A point a head."""
        for i, (arm, look) in enumerate(looks.items()):
            values = np.array(look[what])  # (layers, heads)
            across = np.arange(1, len(values) + 1) + 0.12 * (i - (len(looks) - 1) / 2)
            axes.plot(np.repeat(across, values.shape[1]), values.ravel(), "o", ms=4, alpha=0.8,
                      label=arm, color=colour(results, arm))  # fmt: skip
        axes.axhline(look[f"even_{what}"], ls=":", lw=1, color=INK)
        axes.set_xticks(range(1, len(values) + 1))
        axes.set(xlabel="block", ylabel=unit, ylim=(0, None))
        axes.legend(fontsize=8, frameon=False)

    return draw(paint, f"{what} of a look, {reading} reading")


def fairness(results: dict) -> list[str]:
    """From his sentence to hers: the change in a label's probability, and what any other name
    changes."""
    found = {a: v["fairness"] for a, v in results["analyses"].items() if "fairness" in v}
    if not found:
        return []
    names = list(found)[::-1]

    def paint(axes) -> None:
        """An arm a line."""
        for y, arm in enumerate(names):
            low, high = found[arm]["change_interval"]
            axes.plot([100 * low, 100 * high], [y, y], lw=2, color=colour(results, arm))
            axes.plot(100 * found[arm]["change"], y, "o", color=colour(results, arm))
        axes.axvline(0, ls=":", lw=1, color=INK)
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel="change in probability, points")

    rows = [["arm", "label", "change from his to hers", "moved by his to hers",
             "moved by another such name", "difference", "says another label"]]  # fmt: skip
    for arm, f in found.items():
        low, high = (f"{100 * bound:+.1f}" for bound in f["change_interval"])
        less, more = (f"{100 * bound:+.1f}" for bound in f["excess_interval"])
        rows.append(
            [
                arm,
                f["label"],
                f"{100 * f['change']:+.1f} ({low} to {high})",
                f"{100 * f['across']:.1f}",
                f"{100 * f['within']:.1f}",
                f"{100 * f['excess']:+.1f} ({less} to {more})",
                f"{f['flips']:.0%}",
            ]
        )
    one = next(iter(found.values()))
    return [
        draw(paint, "from his sentence to hers"),
        html_table(rows),
        f'<p class="note">{one["sentences"]} pairs of sentences from {one["names"]} pairs of '
        f"names, in points; 95 % intervals over the names. Moved: how much of the probability went "
        f"to other labels. {html.escape(one['cannot_show'])}</p>",
    ]
