"""What the POST routes take and give: decoded from these types, encoded as them, documented by them.

Instants are ISO 8601 text with an offset. A JSON number keeps its digits until the declared type of its
column is known.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from pydantic import BaseModel, ConfigDict

from featurestore.log.cells import Number

Status = Literal["PRESENT", "NULL_VALUE", "INVALID", "OUTSIDE_RETENTION", "NOT_FOUND"]

EntityColumns = Annotated[
    dict[str, list[Any]],
    Meta(
        description="one column of values for each key of the entities; all of one length",
        examples=[{"card_id": ["c1", "c2"]}],
    ),
]
KnownAtField = Annotated[
    str | None,
    Meta(
        description="absent: everything known now; an instant: what was available before it; "
        '"as_of": what was available before each row\'s own as_of',
        examples=[None, "2026-01-14T00:00:00Z", "as_of"],
    ),
]


class OnlineRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Which features, of which entities, as of when. A field of another name is refused, never ignored."""

    entities: EntityColumns
    features: Annotated[
        list[str] | None,
        Meta(description="`view:feature` names; `view@version:feature` reads a pinned version"),
    ] = None
    feature_service: Annotated[str | None, Meta(description="a service's name, instead of `features`")] = None
    full_feature_names: Annotated[bool, Meta(description="name columns `view__feature`, not `feature`")] = (
        False
    )
    as_of: Annotated[
        str | list[str] | None,
        Meta(description="absent: now; one instant, or one a row. A fact at exactly as_of is not seen"),
    ] = None
    known_at: KnownAtField = None
    include_feature_view_version_metadata: Annotated[
        bool, Meta(description="a field of Feast's; either way the answer has `metadata.view_versions`")
    ] = False


class FeatureColumn(msgspec.Struct):
    """One column of the answer."""

    values: list[Any]
    statuses: list[Status]
    event_timestamps: Annotated[
        list[str], Meta(description="the latest event time in the feature's set; 1970 where it is empty")
    ]


class OnlineMetadata(msgspec.Struct):
    """What the answer is about."""

    feature_names: Annotated[list[str], Meta(description="the names of `results`, join keys first")]
    as_of: str | list[str]
    known_at: str | None
    store_commit: Annotated[int, Meta(description="the commit of the store that all values come from")]
    view_versions: dict[str, int]


class OnlineResponse(msgspec.Struct):
    """Columns of values: `results[i]` belongs to `metadata.feature_names[i]`."""

    metadata: OnlineMetadata
    results: list[FeatureColumn]


class ExplainRequest(msgspec.Struct, forbid_unknown_fields=True):
    """One feature of one entity. A field of another name is refused, never ignored."""

    feature: Annotated[str, Meta(description="`view:feature`", examples=["card_activity:amount_sum_7d"])]
    entities: EntityColumns
    as_of: Annotated[str | None, Meta(description="absent: now")] = None
    known_at: KnownAtField = None


class ExplainedWindow(msgspec.Struct):
    """The event times that count: begin <= event_time < end; no begin for a lifetime."""

    begin: str | None
    end: str


class ExplainedFact(msgspec.Struct):
    """A fact in the feature's set, in timeline order."""

    id: dict[str, Any]
    event_time: str
    available_at: str | None
    input: Any = None
    order: Any = None
    changed_at: str | None = None


class ExplainResponse(msgspec.Struct):
    """A value and the facts that it is made of."""

    feature: str
    entity: dict[str, Any]
    as_of: str
    known_at: str | None
    value: Any
    status: Status
    dtype: str
    window: ExplainedWindow
    view_version: int
    store_commit: int
    facts: list[ExplainedFact]


class RejectedRow(msgspec.Struct):
    """A row that was refused: its line in the body (the first is 1) and why."""

    line: int
    reason: str


class ConflictedRow(msgspec.Struct):
    """Different changes of a table's row at one position: the one of the greatest content hash counts."""

    row: Annotated[str, Meta(description="its primary key")]
    position: str
    counts: Annotated[int | None, Meta(description="the line of the change that counts; null: in the store")]
    others: Annotated[list[int | None], Meta(description="the lines of the others")]


class IngestResponse(msgspec.Struct):
    """What became of the rows; those accepted are durable and served."""

    accepted: int
    corrected: int
    duplicate: int
    late: Annotated[int, Meta(description="events before all that a question may still see: nothing is kept")]
    keyless: int
    forgotten: Annotated[int, Meta(description="rows of forgotten entities: nothing of them is kept")]
    ignored: Annotated[int, Meta(description="tombstones and the like")]
    conflicts: Annotated[list[ConflictedRow], Meta(description="the first 10 of them")]
    updates_of_unseen_rows: Annotated[
        int, Meta(description="rows that the store had not seen and that begin with an update or a delete")
    ]
    rejected: Annotated[list[RejectedRow], Meta(description="the first 1000 of them")]
    rejected_count: int
    store_commit: int


class ProblemDocument(msgspec.Struct, omit_defaults=True):
    """An error, after RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    hint: str | None = None
    rejected: list[RejectedRow] | None = None


DOCUMENTED = (
    OnlineRequest, OnlineResponse, ExplainRequest, ExplainResponse, IngestResponse, ProblemDocument,
)  # fmt: skip


class Model(BaseModel):
    """A response of a GET route."""

    model_config = ConfigDict(extra="forbid")


class KeyModel(Model):
    name: str
    dtype: str


class EntityModel(Model):
    name: str
    keys: list[KeyModel]


class FeatureModel(Model):
    """A feature: an operation over the facts of a window."""

    name: str
    reference: str
    op: str
    dtype: str
    input: str | None
    where: str | None
    order: str | None
    window_us: int | None
    delay_us: int
    parameters: dict[str, Any]


class VersionModel(Model):
    version: int
    state: Literal["filling", "current", "pinned", "dropped"]
    fingerprint: str


class FeatureViewModel(Model):
    """A feature view as it was applied. ``version`` is the one that is served; null: not filled yet."""

    name: str
    version: int | None
    versions: list[VersionModel]
    entity: EntityModel
    source: str
    features: list[FeatureModel]
    description: str
    tags: dict[str, str]
    owner: str


class FeatureServiceModel(Model):
    name: str
    features: list[str]
    description: str
    tags: dict[str, str]
    owner: str


class FeatureViews(Model):
    store_commit: int
    feature_views: list[FeatureViewModel]


class FeatureServices(Model):
    store_commit: int
    feature_services: list[FeatureServiceModel]


class Health(Model):
    status: Literal["ok"]


class Ready(Model):
    status: Literal["ready"]
    store_commit: int


online_decoder = msgspec.json.Decoder(OnlineRequest, float_hook=Number)
explain_decoder = msgspec.json.Decoder(ExplainRequest, float_hook=Number)
rows_decoder = msgspec.json.Decoder(float_hook=Number)
