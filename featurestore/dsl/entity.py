"""Entities: what features are about, identified by one or more key columns."""

from __future__ import annotations

from dataclasses import dataclass, field

from featurestore.dsl.names import check_cosmetics, checked, column_names
from featurestore.errors import DefinitionError


@dataclass(frozen=True)
class Entity:
    """What features are about: a card, a user, a (merchant, day).

    ``key`` names the key column(s), found under these names in every source and spine. Keys are compared by
    value and column by column, so composite keys never collide. ``description``, ``tags`` and ``owner`` are
    cosmetic.
    """

    name: str
    key: str | list[str] | tuple[str, ...]
    description: str = ""
    tags: dict[str, str] = field(default_factory=dict, hash=False)
    owner: str = ""

    def __post_init__(self) -> None:
        checked(self.name, "entity")
        keys = column_names(self.key, f'entity "{self.name}"')
        if not keys:
            raise DefinitionError(
                f'entity "{self.name}" has no key', hint='name its key column: key="card_id"'
            )
        object.__setattr__(self, "key", keys)
        check_cosmetics(
            f'entity "{self.name}"', description=self.description, tags=self.tags, owner=self.owner
        )

    @property
    def keys(self) -> tuple[str, ...]:
        """The key columns, in the declared order."""
        assert isinstance(self.key, tuple)
        return self.key
