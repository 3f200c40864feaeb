"""The report's sections on what is to be seen in each arm's net: see `analyses.py`."""

import html

from minilm.experiments.drawing import INK, colour, draw, html_table


def sections(results: dict) -> list[tuple[str, list[str]]]:
    """Titles and their figures and tables; none where nothing was analysed."""
    found = results.get("analyses")
    if not found:
        return []
    return [
        ("Where the label lives", [probe(results), PROBE_NOTE]),
        ("What each can do", [examples(found)]),
        ("Which words drove a prediction", [attributions(found)]),
        ("Is it right as often as it is sure?", [*reliability(results), calibration(found)]),
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
