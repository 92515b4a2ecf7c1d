"""Files of delimited text as columns of text, with the lines that are no rows set aside.

Used by `replay` (CSV) and `movielens`. Nothing is guessed: every value stays text until the contract says what it is.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import csv as arrow_csv

from headrace.streaming.columns import text
from headrace.streaming.events import UnknownLayout

_BLOCK_BYTES = 16 << 20  # the longest line that can be read


@dataclass(frozen=True)
class Delimited:
    """A file's rows.

    Attributes:
        columns: name to n strings, null where a value is empty.
        broken: lines with too many or too few values, by their place among all non-empty lines.
    """

    columns: Mapping[str, pa.Array]
    broken: Mapping[int, bytes]


def read_delimited(
    file: Path,
    delimiter: str,
    *,
    names: Sequence[str] | None = None,
    quotes: bool = False,
    encoding: str = "utf-8",
) -> Delimited:
    """Read a whole file; its first line names the columns unless `names` does.

    Args:
        quotes: whether `"` may enclose a value, and with it delimiters and line ends.

    Raises:
        UnknownLayout: it cannot be read as delimited text of that encoding at all.
        FileNotFoundError: there is no such file.
    """
    header_lines = 0 if names else 1
    columns = names or _header(file, delimiter, encoding)
    broken: dict[int, bytes] = {}

    def set_aside(row: arrow_csv.InvalidRow) -> str:
        broken[row.number - 1 - header_lines] = row.text.encode()
        return "skip"

    try:
        with pa.OSFile(str(file)) as stream:
            table = arrow_csv.read_csv(
                stream,
                # One thread: only then does a row that is set aside know its number.
                arrow_csv.ReadOptions(
                    column_names=names, use_threads=False, block_size=_BLOCK_BYTES, encoding=encoding
                ),
                arrow_csv.ParseOptions(
                    delimiter=delimiter,
                    quote_char='"' if quotes else False,
                    newlines_in_values=quotes,
                    invalid_row_handler=set_aside,
                ),
                arrow_csv.ConvertOptions(
                    # Bytes: text that is no UTF-8 is one value's trouble, not the file's.
                    column_types=dict.fromkeys(columns, pa.binary()),
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
    except pa.ArrowInvalid as error:
        raise UnknownLayout(f"{file} cannot be read as delimited text: {error}") from error
    return Delimited({name: text(table.column(name).combine_chunks()) for name in table.column_names}, broken)


def _header(file: Path, delimiter: str, encoding: str) -> list[str]:
    with file.open(encoding=encoding, errors="replace", newline="") as lines:
        return next(csv.reader(lines, delimiter=delimiter), [])
