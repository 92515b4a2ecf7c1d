"""One table of a contract file, read key by key, so that each complaint can name the key it is about.

Under `toml_file`, which knows what the keys mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from headrace.streaming.contracts.errors import BadContract


class Words(str):
    """What came, when it is not a value of the file and so is not quoted."""


@dataclass(frozen=True)
class Section:
    """One TOML table and where it stands, so that each complaint can name its key."""

    file: str
    path: str
    table: Mapping[str, Any]

    def bad(self, key: str, expected: str, got: object, advice: str) -> NoReturn:
        where = f"{self.path}.{key}" if self.path else key
        raise BadContract(self.file, where, expected, got if isinstance(got, Words) else repr(got), advice)

    def section(self, path: str, table: object) -> Section:
        where = f"{self.path}.{path}" if self.path else path
        if not isinstance(table, dict):
            raise BadContract(self.file, where, "a table", repr(table), "write it as key = value lines")
        return Section(self.file, where, table)

    def only(self, *keys: str) -> None:
        for key in self.table:
            if key not in keys:
                self.bad(
                    key,
                    f"one of the keys {', '.join(keys)}",
                    Words("an unknown key"),
                    "remove or respell it",
                )

    def take(self, key: str, kind: type | tuple[type, ...], expected: str) -> Any:
        if key not in self.table:
            self.bad(key, expected, Words("nothing"), "add the key")
        value = self.table[key]
        # bool is an int for Python, but never for the writer of a contract.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.bad(key, expected, value, "correct the value")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        if default is not None and key not in self.table:
            return default
        return str(self.take(key, str, "a string"))

    def integer(self, key: str, low: int, high: int) -> int:
        value = self.take(key, int, f"an integer from {low} to {high}")
        if not low <= value <= high:
            self.bad(key, f"an integer from {low} to {high}", value, "correct the value")
        return int(value)

    def number(self, key: str) -> float:
        value = float(self.take(key, (int, float), "a finite number"))
        if not math.isfinite(value):
            self.bad(key, "a finite number", value, "correct the value")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        value = self.take(key, list, "an array of strings") if key in self.table else []
        if not all(isinstance(item, str) for item in value):
            self.bad(key, "an array of strings", value, "put each name in quotes")
        if len(set(value)) < len(value):
            self.bad(key, "each name once", value, "remove the repetition")
        return tuple(value)
