"""Feature vectors: what serving answers, column by column, with what is needed to audit it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.dtypes import DType, instant_text
from featurestore.errors import RequestError
from featurestore.kernel.evaluate import NO_EVENT
from featurestore.kernel.feature import Feature
from featurestore.serving.faces import instant_texts, json_values

if TYPE_CHECKING:
    import pandas

EPOCH_TEXT = "1970-01-01T00:00:00Z"

_STATUSES = ("PRESENT", "NULL_VALUE", "INVALID", "NOT_FOUND", "OUTSIDE_RETENTION")
_PRESENT, _NULL_VALUE, _INVALID, _NOT_FOUND, _OUTSIDE_RETENTION = range(5)


@dataclass(frozen=True)
class FeatureVector:
    """One feature's values for every entity row.

    ``view`` is the view's name as it was asked for, ``view`` or ``view@version``; ``keys`` are the key
    columns of its entity. ``found`` bool[n]: the entity has a known fact before its time; ``flagged`` bool[n]
    or None; ``latest`` int64[n], the latest event time in the feature's set. ``outside`` bool[n] or None: the
    question is about a time before ``horizon_us``, and is not answered.
    """

    view: str
    keys: tuple[str, ...]
    feature: Feature
    values: pa.Array
    found: NDArray[np.bool_]
    flagged: NDArray[np.bool_] | None
    latest: NDArray[np.int64]
    outside: NDArray[np.bool_] | None = None
    horizon_us: int | None = None

    @property
    def column(self) -> str:
        """The name of its column, as in training sets."""
        return f"{self.view}__{self.feature.name}"

    def statuses(self) -> list[str]:
        """PRESENT, NULL_VALUE, INVALID or NOT_FOUND, a row each; a value never depends on its status.
        OUTSIDE_RETENTION where there is none: the store may no longer hold what the question is about."""
        # The later an assignment, the more it says.
        made = np.where(self.values.is_null().to_numpy(zero_copy_only=False), _NULL_VALUE, _PRESENT)
        if self.flagged is not None:
            made[self.flagged] = _INVALID
        made[~self.found] = _NOT_FOUND
        if self.outside is not None:
            made[self.outside] = _OUTSIDE_RETENTION
        return [_STATUSES[code] for code in made.tolist()]

    def event_timestamps(self) -> list[str]:
        """The latest event time in each set as ISO 8601; 1970 for none."""
        return instant_texts(self.latest_instants())

    def latest_instants(self) -> NDArray[np.int64]:
        """The same in microseconds."""
        return np.where(self.latest == NO_EVENT, 0, self.latest)


@dataclass(frozen=True)
class FeatureVectors:
    """The answer to one request: all values are of one state of the store, ``store_commit``.

    ``keys`` are the entity's key columns as given, with their types; ``as_of`` one instant, or one a row, in
    microseconds; ``view_versions`` the version that answered, by view as asked for.
    """

    keys: Mapping[str, tuple[pa.Array, DType]]
    vectors: Sequence[FeatureVector]
    as_of: int | Sequence[int]
    known_at: int | str | None
    store_commit: int
    view_versions: Mapping[str, int]

    @property
    def rows(self) -> int:
        return len(next(iter(self.keys.values()))[0])

    def to_arrow(self) -> pa.Table:
        """Key columns, then one ``view__feature`` column a feature, as in a training set."""
        columns = {name: array for name, (array, _) in self.keys.items()}
        columns |= {vector.column: vector.values for vector in self.vectors}
        return pa.table(columns)

    def to_pandas(self) -> pandas.DataFrame:
        return self.to_arrow().to_pandas()

    def to_dict(self) -> dict[str, list[object]]:
        """Lists of Python values by column name."""
        made: dict[str, list[object]] = self.to_arrow().to_pydict()
        return made

    def to_response(self, *, full_feature_names: bool) -> dict[str, Any]:
        """The body of ``POST /get-online-features``: ``results[i]`` belongs to ``feature_names[i]``, join
        keys first."""
        present = ["PRESENT"] * self.rows
        no_times = [EPOCH_TEXT] * self.rows
        names = list(self.keys)
        results: list[dict[str, Any]] = [
            {"values": json_values(array, dtype), "statuses": present, "event_timestamps": no_times}
            for array, dtype in self.keys.values()
        ]
        for vector in self.vectors:
            names.append(vector.column if full_feature_names else vector.feature.name)
            results.append(
                {
                    "values": json_values(vector.values, vector.feature.dtype),
                    "statuses": vector.statuses(),
                    "event_timestamps": vector.event_timestamps(),
                }
            )
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise RequestError(
                f'two features of this request are named "{twice}"',
                hint='ask with "full_feature_names": true',
            )
        as_of = (
            instant_text(self.as_of)
            if isinstance(self.as_of, int)
            else instant_texts(np.asarray(self.as_of, np.int64))
        )
        return {
            "metadata": {
                "feature_names": names,
                "as_of": as_of,
                "known_at": instant_text(self.known_at) if isinstance(self.known_at, int) else self.known_at,
                "store_commit": self.store_commit,
                "view_versions": dict(self.view_versions),
            },
            "results": results,
        }
