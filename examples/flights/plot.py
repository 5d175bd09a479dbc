"""One plot: how wrong each way of predicting is, by the hour at which flights are to leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from examples.flights.model import CLAIMED, OBTAINED, WITH, WITHOUT, Evaluation

# Fewer flights than this in an hour make a line of noise.
LEAST_FLIGHTS = 200

STYLES: dict[str, dict[str, Any]] = {
    WITHOUT: {"color": "#8c8c8c", "linestyle": "-"},
    WITH: {"color": "#0b6e4f", "linestyle": "-", "linewidth": 2.5},
    CLAIMED: {"color": "#c8553d", "linestyle": ":"},
    OBTAINED: {"color": "#c8553d", "linestyle": "-"},
}


def draw(evaluation: Evaluation, path: Path) -> None:
    """Write the plot as a PNG. Errors are root mean squares in minutes, the axis begins at 0."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    hour = evaluation.minute_of_day // 60
    hours = [one for one in range(24) if (hour == one).sum() >= LEAST_FLIGHTS]
    judged = f"{len(evaluation.actual):,}"
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    for way, style in STYLES.items():
        squares = np.square(evaluation.predicted[way] - evaluation.actual)
        errors = [float(np.sqrt(squares[hour == one].mean())) for one in hours]
        axes.plot(hours, errors, label=f"{way} ({evaluation.rmse(way):.1f} overall)", **style)
    axes.set_ylim(bottom=0)
    axes.set_xticks(hours, [f"{one}:00" for one in hours], rotation=45)
    axes.set_xlabel("scheduled departure, New York time")
    axes.set_ylabel("RMSE of predicted arrival delay, minutes")
    axes.set_title(
        "Recent delays help most in the evening; a leak promises more than it keeps\n"
        f"{judged} flights of October to December 2013, trained on {evaluation.trained_on:,} before",
        loc="left",
        fontsize=10,
    )
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    plt.close(figure)
