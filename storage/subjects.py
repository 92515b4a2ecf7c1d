"""Persons by keyed digest: what stands for an id wherever something is written down.

In the flow: requests, receipts and the register of erasures name a person by a digest under a secret key; who has the key can
tell whether an id is meant, and nobody can test guesses without it. The type goes into the digest, so that the number 42 and
the text "42" are two persons. Source: keyed BLAKE3 (its specification, section 2.2), cut to 16 bytes.

``present`` reads the ids that a table's kept files hold, so that digests can be traced back to rows.

Deliberately absent: what is done with the rows, and the table's own denylist, whose salt lies beside it.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
from blake3 import blake3

from headrace.storage.errors import WrongKeyType
from headrace.storage.signing import read_secret, write_secret

if TYPE_CHECKING:
    from headrace.storage.table import Table

DIGEST_BYTES: Final = 16
Kind = Literal["integer", "text", "bytes"]
Id = int | str | bytes


def kind_of(type_: pa.DataType) -> Kind:
    """What ids of an Arrow type are.

    Raises:
        WrongKeyType: no person is named by such values.
    """
    if pa.types.is_dictionary(type_):
        return kind_of(type_.value_type)
    if pa.types.is_integer(type_):
        return "integer"
    if pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return "text"
    if pa.types.is_binary(type_) or pa.types.is_large_binary(type_) or pa.types.is_fixed_size_binary(type_):
        return "bytes"
    raise WrongKeyType(
        f"an erase key holds integers, text or bytes, this one {type_}; name another column as erase_key"
    )


def parse_id(text: str, kind: Kind) -> Id:
    """An id as a person types it: a number, text, or hex digits.

    Raises:
        WrongKeyType: it is no id of that kind; the message does not repeat it.
    """
    try:
        return int(text) if kind == "integer" else bytes.fromhex(text) if kind == "bytes" else text
    except ValueError:
        what = "a whole number" if kind == "integer" else "hex digits"
        raise WrongKeyType(
            f"the table's erase key holds {kind} ids: expected {what}, got {len(text)} characters that are none"
        ) from None


class SubjectKey:
    """The secret under which ids are digested."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def __repr__(self) -> str:
        return "SubjectKey(…)"

    @classmethod
    def create(cls, path: Path) -> SubjectKey:
        """Draw a key and keep it in a new file; raises FileExistsError."""
        secret = os.urandom(32)
        write_secret(path, secret)
        return cls(secret)

    @classmethod
    def load(cls, path: Path) -> SubjectKey:
        """The key in a file; raises BadKey."""
        return cls(read_secret(path))

    def digest(self, value: Id) -> str:
        """Hex digest of one id.

        >>> key = SubjectKey(bytes(32))
        >>> key.digest(42) == key.digest("42")
        False
        """
        return str(blake3(_typed(value), key=self._secret).hexdigest(length=DIGEST_BYTES))

    def find(self, values: pa.Array, wanted: Collection[str]) -> dict[str, Id]:
        """Which ids some digests stand for, of all that occur.

        Args:
            values: ids, each as often as it comes.
            wanted: hex digests.
        """
        looked_for, found = frozenset(wanted), dict[str, Id]()
        for value in pc.unique(values).to_pylist():
            if value is not None and (digest := self.digest(value)) in looked_for:
                found[digest] = value
        return found


def present(table: Table) -> pa.Array:
    """Every id that some file of a kept version still holds, hidden rows included, each once."""
    from headrace.storage.erase_file import erase_key_of, keys_of
    from headrace.storage.held import kept_files  # here: those who only make requests need no table
    from headrace.storage.manifest import DATA
    from headrace.storage.paths import inside
    from headrace.storage.reader import File

    found: list[pa.Array] = []
    for entry in kept_files(table):
        with File(inside(table.path, entry.path, DATA)) as file:
            for number, keys in enumerate(keys_of(file, erase_key_of(file))):
                gone = file.footer.deleted(number)
                found.append(pc.unique(keys if gone is None else keys.filter(pa.array(~gone))))
    return pc.unique(pa.chunked_array(found)) if found else pa.array([], pa.null())


def _typed(value: Id) -> bytes:
    if isinstance(value, int):
        return b"i%d" % value
    return b"s" + value.encode() if isinstance(value, str) else b"b" + value
