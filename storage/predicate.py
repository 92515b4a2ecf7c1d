"""Filters: what a caller may write, as one Arrow expression, and as conditions that statistics can be asked about.

An expression decides which rows come out; conditions only say which pages cannot hold such a row. Conditions come from
tuples, or are read back from an expression's text, which Arrow offers as the only way to look into it: what is read is
built again and compared with the expression, so a misread one is never used. Arrow's compute functions take a third of
its import, so they are loaded by the first filter and by nothing before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from headrace.storage import exact
from headrace.storage.errors import NoSuchColumn

if TYPE_CHECKING:
    import pyarrow.compute as pc

Condition = tuple[str, str, Any]
Filter: TypeAlias = "pc.Expression | Sequence[Condition] | Sequence[Sequence[Condition]]"
AnyOf: TypeAlias = tuple[tuple[Condition, ...], ...]
"""One of the inner tuples must hold, all of its conditions."""

_COMPARISONS = frozenset({"==", "!=", "<", "<=", ">", ">="})
_MAX_TERMS = 64  # conditions that an expression is multiplied out to; beyond, no page is left out
_TOKEN = re.compile(
    r'\s*(?:(?P<sign>[()]|==|!=|<=|>=|<|>)|(?P<text>"(?:[^"\\]|\\.)*")|(?P<word>[^\s()=!<>"]+))'
)


@dataclass(frozen=True)
class Predicate:
    """A filter that was understood.

    Attributes:
        expression: decides.
        any_of: the same as conditions, or None where only the expression can tell.
        columns: the columns it reads.
    """

    expression: pc.Expression
    any_of: AnyOf | None
    columns: tuple[str, ...]


def parse_filter(given: Filter | None) -> pc.Expression | None:
    """A filter as an Arrow expression.

    Args:
        given: an expression; or (column, op, value) tuples, all of which must hold; or a list of such lists, one of
            which must hold. Ops: ``=`` ``==`` ``!=`` ``<`` ``<=`` ``>`` ``>=`` ``in`` ``not in``.

    Raises:
        ValueError: an unknown op or another shape.
    """
    if given is None or _is_expression(given):
        return given
    groups = _groups(given)
    return _expression(groups) if groups else None


def predicate(given: pc.Expression, schema: pa.Schema, conditions: AnyOf | None = None) -> Predicate:
    """A filter made ready for reading.

    Args:
        given: the expression.
        schema: of the table.
        conditions: what it was made of, if that is known.

    Raises:
        NoSuchColumn: it does not fit the schema.
    """
    any_of = conditions or conditions_of(given)
    if any_of is not None:
        names = list(dict.fromkeys(name for group in any_of for name, _, _ in group))
        known = set(names) <= set(schema.names)
        if known and (_is_plain(any_of, schema) or _fits(given, schema, names)):
            return Predicate(given, any_of, tuple(names))
    return Predicate(given, any_of, tuple(filter_columns(given, schema)))


def tuples_of(given: Filter | None) -> AnyOf | None:
    """The conditions of a filter that was written as tuples; None for others."""
    if given is None or _is_expression(given):
        return None
    return tuple(
        tuple((name, "==" if op == "=" else op, value) for name, op, value in group)
        for group in _groups(given)
    )


def _is_expression(given: object) -> bool:
    import pyarrow.compute as pc

    return isinstance(given, pc.Expression)


def conditions_of(expression: pc.Expression) -> AnyOf | None:
    """The conditions an expression consists of, if it is made of comparisons, ``and`` and ``or`` alone.

    >>> import pyarrow.compute as pc
    >>> conditions_of((pc.field("a") == 4) & (pc.field("b") < 2.5))
    ((('a', '==', 4), ('b', '<', 2.5)),)
    """
    try:
        found = _Parser(str(expression)).whole()
    except (_NotUnderstood, ValueError, RecursionError):
        return None
    if found is None or not found or sum(len(group) for group in found) > _MAX_TERMS:
        return None
    return found if _same(expression, found) else None


def _same(expression: pc.Expression, found: AnyOf) -> bool:
    """Whether the text was read as it was meant. Only a conjunction or disjunction has one way to be built again."""
    rebuilt = _expression(found)
    if rebuilt is not None and expression.equals(rebuilt):
        return True
    # And, or and parentheses may nest otherwise than conditions are listed: compare through the text's own tree.
    try:
        tree = _Parser(str(expression)).tree()
    except _NotUnderstood:
        return False
    return bool(expression.equals(_built(tree)))


class _NotUnderstood(ValueError):
    """The text of an expression holds something else than comparisons."""


class _Parser:
    """Reads what ``str(expression)`` prints: every comparison and connective stands in parentheses."""

    def __init__(self, text: str) -> None:
        self._tokens: list[str] = []
        at = 0
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None or len(self._tokens) > 16 * _MAX_TERMS:
                raise _NotUnderstood(text)
            self._tokens.append(found.group().strip())
            at = found.end()
        self._at = 0

    def whole(self) -> AnyOf:
        return _any_of(self.tree())

    def tree(self) -> Any:
        self._at = 0
        found = self._term()
        if self._at != len(self._tokens):
            raise _NotUnderstood
        return found

    def _next(self) -> str:
        if self._at >= len(self._tokens):
            raise _NotUnderstood
        self._at += 1
        return self._tokens[self._at - 1]

    def _term(self) -> Any:
        if self._next() != "(":
            raise _NotUnderstood
        if self._tokens[self._at : self._at + 1] == ["("]:
            left, word, right = self._term(), self._next(), self._term()
            if word not in ("and", "or") or self._next() != ")":
                raise _NotUnderstood
            return word, left, right
        name = self._next()
        op = self._next()
        value = _literal(self._next())
        if op not in ("==", "!=", "<", "<=", ">", ">=") or self._next() != ")":
            raise _NotUnderstood
        return name, op, value


def _literal(token: str) -> Any:
    if token in ("true", "false"):
        return token == "true"
    if token.startswith('"'):
        return token[1:-1].replace('\\"', '"')
    try:
        return int(token)
    except ValueError:
        return float(token)


def _any_of(tree: Any) -> AnyOf:
    if tree[0] == "or" and isinstance(tree[1], tuple):
        return (*_any_of(tree[1]), *_any_of(tree[2]))
    if tree[0] == "and" and isinstance(tree[1], tuple):
        found = tuple((*left, *right) for left in _any_of(tree[1]) for right in _any_of(tree[2]))
        if sum(len(group) for group in found) > _MAX_TERMS:
            raise _NotUnderstood
        return found
    return ((tree,),)


def _built(tree: Any) -> pc.Expression:
    if tree[0] in ("and", "or") and isinstance(tree[1], tuple):
        left, right = _built(tree[1]), _built(tree[2])
        return left & right if tree[0] == "and" else left | right
    return _term(tree)


def _groups(given: Any) -> list[Any]:
    groups: list[Any] = list(given)
    if groups and isinstance(groups[0], tuple):
        groups = [groups]
    return groups


def _expression(groups: Sequence[Sequence[Condition]]) -> pc.Expression:
    any_of: Any = None
    for group in groups:
        all_of: Any = None
        for condition in group:
            term = _term(condition)
            all_of = term if all_of is None else all_of & term
        if all_of is None:
            raise ValueError("a filter's inner list is empty; leave it out")
        any_of = all_of if any_of is None else any_of | all_of
    return any_of


def _term(condition: Any) -> pc.Expression:
    import pyarrow.compute as pc

    match condition:
        case (str(name), str(op), value):
            field = pc.field(name)
        case _:
            raise ValueError(f"expected filter conditions as (column, op, value), got {condition!r}")
    match op:
        case "=" | "==":
            return field == value
        case "!=":
            return field != value
        case "<":
            return field < value
        case "<=":
            return field <= value
        case ">":
            return field > value
        case ">=":
            return field >= value
        case "in":
            return field.isin(list(value))
        case "not in":
            return ~field.isin(list(value))
    raise ValueError(f"expected one of = == != < <= > >= in, not in, got {op!r} for column {name!r}")


def filter_columns(expression: pc.Expression, schema: pa.Schema) -> list[str]:
    """The columns an expression reads, by trying it on empty tables: Arrow has no way to ask.

    Raises:
        NoSuchColumn: it does not fit the schema at all.
    """

    text = str(expression)
    named = [name for name in schema.names if name in text]
    if not _fits(expression, schema, named):
        named = list(schema.names)
        if not _fits(expression, schema, named):
            raise NoSuchColumn(
                f"the filter {text} does not fit the columns {schema.names[:20]}; check names and types"
            )
    return [
        name for name in named if not _fits(expression, schema, [other for other in named if other != name])
    ]


def _is_plain(any_of: AnyOf, schema: pa.Schema) -> bool:
    """Whether every condition compares a column with a value of its own kind, so that no trial is needed."""
    return all(
        op in _COMPARISONS and _same_kind(schema.field(name).type, value)
        for group in any_of
        for name, op, value in group
    )


def _same_kind(type_: pa.DataType, value: Any) -> bool:
    kind = type(value)  # not isinstance: True is no number here
    if pa.types.is_integer(type_):
        return kind is int
    if pa.types.is_float32(type_) or pa.types.is_float64(type_):
        return kind is float or kind is int
    return kind is str and bool(pa.types.is_string(type_))


def _fits(expression: pc.Expression, schema: pa.Schema, names: Sequence[str]) -> bool:
    """Whether an expression can be evaluated on these columns."""
    fields = [pa.field(name, exact.plain_type(schema.field(name))) for name in names]
    empty = pa.schema(fields).empty_table()
    try:
        empty.filter(expression)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, pa.ArrowKeyError):
        return False
    return True
