"""How rows are stored, as callers of tables say it: what ``Writer`` takes beside a schema and who is in the rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from headrace.storage.select import Profile


class Storing(TypedDict, total=False):
    """How rows are stored; every key may be left out."""

    profile: str | Profile
    """What bytes and reading time are worth: "size", "balanced" (the default), "train" or "compliance"; see ``select``."""
    encodings: Mapping[str, str] | None
    """By column, the encoding its values get whatever the profile says, or "dictionary", or "sequence"."""
    quantise: Mapping[str, str | Mapping[str, float]] | None
    """By column of floats, how it may lose precision: a name or an error bound, see ``quantise.parse``."""
    cluster_by: str | None
    """The column whose equal values own a history; None is the erase key."""
