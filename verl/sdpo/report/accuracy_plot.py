"""Plot of validation and training accuracy over the steps, an image for a document."""

import io
from collections.abc import Mapping, Sequence

from verl.sdpo.report.curves import COLOURS
from verl.sdpo.runs.guard_rules import ACCURACY
from verl.sdpo.runs.reader import Run


def draw(methods: Mapping[str, Sequence[Run]], kind: str) -> bytes:
    """Return the image, validation accuracy thick and training accuracy thin.

    Args:
        methods: see `reader.methods`.
        kind: a format of matplotlib, as png or pdf.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    runs = [(method, run) for method, members in methods.items() for run in members]
    for i, (method, run) in enumerate(runs):
        colour, label = COLOURS[i % len(COLOURS)], f"{method}, seed {run.seed}"
        for source, curve in run.validations.items():
            text = label if len(run.validations) == 1 else f"{label}: {source}"
            axes.plot(list(curve), list(curve.values()), color=colour, marker="o", linewidth=2, label=text)
        training = run.series(ACCURACY)
        axes.plot(list(training), list(training.values()), color=colour, linewidth=0.8, alpha=0.5)
    axes.set(xlabel="training step", ylabel="accuracy", ylim=(0, 1.03), title="validation (thick), training (thin)")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    axes.grid(alpha=0.3)
    image = io.BytesIO()
    figure.savefig(image, format=kind, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
    return image.getvalue()
