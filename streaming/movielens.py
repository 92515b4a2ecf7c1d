"""MovieLens 100K as events of the shipped `movielens` contract, from either layout in which people have it.

Used by `replay`. GroupLens's own: `u.data` (tabs, no header: user, item, rating, Unix seconds) with `u.item` and
`u.user` beside it (`|`, Latin-1). RecBole's: `NAME.inter` (tabs, a header of `column:type`) with `NAME.item` and
`NAME.user`. What is known of films and users is optional; a year or genre that the files call unknown is missing.

Not here: the larger MovieLens sets, whose layouts are others again; write those as Parquet and replay them by name.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions while it is imported, which pyright cannot see)
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from headrace.streaming.contracts.contract import Contract
from headrace.streaming.delimited import Delimited, read_delimited
from headrace.streaming.events import Events, UnknownLayout, from_columns

_RATING = ("user_id", "item_id", "rating", "timestamp")
# In the order of the flags in u.item; the first, "unknown", says that no genre is known.
_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *(
        "Fantasy",
        "Film-Noir",
        "Horror",
        "Musical",
        "Mystery",
        "Romance",
        "Sci-Fi",
        "Thriller",
        "War",
        "Western",
    ),
)
_UNKNOWN = ("unknown", "unkonwn")  # the second is how the data set spells it


def read_movielens(path: Path, contract: Contract) -> Events:
    """Every rating in the order of time, named ml-1, ml-2, …

    Args:
        path: `u.data`, a `.inter` file, or the folder that holds one of them.

    Raises:
        UnknownLayout: it is neither.
        FileNotFoundError: there is no such file.
    """
    file = _ratings_file(path)
    ratings = _recbole(file) if file.suffix == ".inter" else read_delimited(file, "\t", names=_RATING)
    missing = [name for name in _RATING if name not in ratings.columns]
    if missing:
        raise UnknownLayout(
            f"expected the columns {', '.join(_RATING)} in {file}, {', '.join(missing)} is missing; "
            "replay it with --as csv, jsonl or parquet if it is no MovieLens file"
        )
    columns = dict(ratings.columns)
    columns["event_time"] = columns.pop("timestamp")
    recbole = file.suffix == ".inter"
    films = _recbole_films if recbole else _grouplens_films
    users = _recbole_users if recbole else _grouplens_users
    for suffix, read, key in ((".item", films, "item_id"), (".user", users, "user_id")):
        beside = file.with_suffix(suffix)
        if beside.is_file():
            columns |= _joined(columns[key], key, read(beside))
    return from_columns(columns, contract, broken=ratings.broken, number_from=("event_id", "ml-"))


def _ratings_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = [path / "u.data"] if (path / "u.data").is_file() else sorted(path.glob("*.inter"))
    if len(found) != 1:
        raise UnknownLayout(
            f"expected u.data or one .inter file in {path}, found {len(found)}; name the file"
        )
    return found[0]


def _recbole(file: Path) -> Delimited:
    """A RecBole file; its header says `user_id:token`, of which the name is wanted."""
    read = read_delimited(file, "\t")
    return Delimited({name.split(":")[0]: column for name, column in read.columns.items()}, read.broken)


def _recbole_films(file: Path) -> dict[str, pa.Array]:
    read = _recbole(file).columns
    films = {"item_id": read["item_id"]}
    if "release_year" in read:
        films["release_year"] = _number_or_null(read["release_year"])
    if "class" in read:
        genres = pc.if_else(
            pc.is_in(read["class"], pa.array(_UNKNOWN)), pa.scalar(None, pa.string()), read["class"]
        )
        films["genres"] = pc.split_pattern(genres, " ")
    return films


def _recbole_users(file: Path) -> dict[str, pa.Array]:
    read = _recbole(file).columns
    return {name: read[name] for name in ("user_id", "age", "gender", "occupation") if name in read}


def _grouplens_films(file: Path) -> dict[str, pa.Array]:
    names = ("item_id", "title", "released", "video", "address", *_GENRES)
    read = read_delimited(file, "|", names=names, encoding="latin-1").columns
    flags = zip(*(read[genre].to_pylist() for genre in _GENRES[1:]), strict=True)
    genres = [[genre for genre, flag in zip(_GENRES[1:], row, strict=True) if flag == "1"] for row in flags]
    return {
        "item_id": read["item_id"],
        "release_year": _number_or_null(pc.utf8_slice_codeunits(read["released"], -4)),  # 01-Jan-1995
        "genres": pa.array([row or None for row in genres], pa.list_(pa.string())),
    }


def _grouplens_users(file: Path) -> dict[str, pa.Array]:
    read = read_delimited(
        file, "|", names=("user_id", "age", "gender", "occupation", "zip"), encoding="latin-1"
    )
    return {name: read.columns[name] for name in ("user_id", "age", "gender", "occupation")}


def _joined(keys: pa.Array, key: str, side: dict[str, pa.Array]) -> dict[str, pa.Array]:
    """What is known of each rating's film or user; null where the side file does not have it."""
    places = pc.index_in(keys, side[key])
    return {name: column.take(places) for name, column in side.items() if name != key}


def _number_or_null(texts: pa.Array) -> pa.Array:
    return pc.if_else(pc.match_substring_regex(texts, "^[0-9]+$"), texts, pa.scalar(None, pa.string()))
