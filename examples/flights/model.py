"""A small model of arrival delay: with and without the features, and what a leak would have promised.

Time: it learns from flights scheduled before October and is judged on those after. Flights without an arrival
delay (cancelled, diverted) are left out of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor

SPLIT = pd.Timestamp("2013-10-01", tz="America/New_York")
LABEL = "arr_delay"
TIMETABLE = ["carrier", "origin", "dest", "distance", "weekday", "minute_of_day", "scheduled_minutes"]

MEAN = "always the mean delay"
WITHOUT = "timetable alone"
WITH = "timetable and features, as known at departure"
CLAIMED = "leaky features: what it claims"
OBTAINED = "leaky features: what it would do in service"


@dataclass(frozen=True)
class Evaluation:
    """The judged flights: their `actual` delays in minutes, and those `predicted` by each way of predicting.

    `minute_of_day` is each judged flight's scheduled departure, local time.
    """

    trained_on: int
    features: int
    actual: NDArray[np.float64]
    minute_of_day: NDArray[np.int64]
    predicted: dict[str, NDArray[np.float64]]

    def mae(self, way: str) -> float:
        return float(np.abs(self.predicted[way] - self.actual).mean())

    def rmse(self, way: str) -> float:
        return float(np.sqrt(np.square(self.predicted[way] - self.actual).mean()))

    def text(self) -> str:
        lines = [
            f"{self.trained_on:,} flights to learn from, {len(self.actual):,} to be judged on",
            f"{self.features} features beside the timetable",
            f"{'error in minutes':<48} {'MAE':>6} {'RMSE':>7}",
        ]
        lines.extend(f"  {way:<46} {self.mae(way):>6.2f} {self.rmse(way):>7.2f}" for way in self.predicted)
        return "\n".join(lines)


def evaluate(training: Path, leaky: Path) -> Evaluation:
    """Train on both training sets, which have the same rows, and predict the judged flights."""
    honest, leaked = _read(training), _read(leaky)
    label = honest[LABEL].to_numpy()
    learned = (honest["scheduled_at"] < SPLIT).to_numpy() & ~np.isnan(label)
    judged = (honest["scheduled_at"] >= SPLIT).to_numpy() & ~np.isnan(label)
    # A column without two values teaches nothing: no aircraft has left, landed and come back within an hour.
    features = [
        name
        for name in honest.columns
        if "__" in name
        and honest.loc[learned, name].nunique() > 1
        and leaked.loc[learned, name].nunique() > 1
    ]
    columns = [*TIMETABLE, *features]
    timetable = _fit(honest.loc[learned, TIMETABLE], label[learned])
    model = _fit(honest.loc[learned, columns], label[learned])
    leaky_model = _fit(leaked.loc[learned, columns], label[learned])
    return Evaluation(
        trained_on=int(learned.sum()),
        features=len(features),
        actual=label[judged],
        minute_of_day=honest.loc[judged, "minute_of_day"].to_numpy(),
        predicted={
            MEAN: np.full(int(judged.sum()), label[learned].mean()),
            WITHOUT: timetable.predict(honest.loc[judged, TIMETABLE]),
            WITH: model.predict(honest.loc[judged, columns]),
            CLAIMED: leaky_model.predict(leaked.loc[judged, columns]),
            OBTAINED: leaky_model.predict(honest.loc[judged, columns]),
        },
    )


def _read(path: Path) -> pd.DataFrame:
    frame = pq.read_table(path).to_pandas()
    for name in frame.select_dtypes(include="str").columns.difference(["tailnum"]):
        frame[name] = frame[name].astype("category")
    return frame


def _fit(inputs: pd.DataFrame, label: NDArray[np.float64]) -> HistGradientBoostingRegressor:
    made = HistGradientBoostingRegressor(
        max_iter=80, min_samples_leaf=100, categorical_features="from_dtype", random_state=0
    )
    return made.fit(inputs, label)
