"""FSST: text by a table of its commonest substrings, one byte for each.

    offset  bytes
    0       4      u32 n, decoded bytes
    4       4      u32 n_codes
    8       1      u8 n_symbols, 0..255
    9       n_symbols   u8 length of each symbol, 1..8
    ..      the sum of those   the symbols' bytes, one after the other
    ..      ..     zeros up to a multiple of 8
    ..      ..     child: codes, uint8[n_codes] (see `nested`)

A code below n_symbols stands for that symbol, 255 says that the next code is a byte of its own. Symbols are learnt from
a sample of the stream, at most 16 KiB. Wins on strings that have much in common but are not equal: URLs, paths, queries,
names of devices; loses on random bytes, each of which takes two codes. Decoding is a table look-up and one store of eight
bytes per code. Strings are one stream of bytes here; where each ends is the page's concern.

Source: Boncz, Neumann and Leis, "FSST: Fast random access string compression" (VLDB 2020): table, escape code, growth of
symbols by joining neighbours over five rounds. Ours finds the longest match among all symbols, indexed by their first
two bytes, where theirs keeps one symbol per hash; it is not random access, which the codes of a page do not need.
"""

import struct
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np

from headrace.storage.encodings._jit import kernel, pick
from headrace.storage.encodings.contract import (
    Array,
    Bytes,
    Child,
    Encoding,
    Stats,
    checked,
    checked_target,
    refuse_encode,
)
from headrace.storage.encodings.errors import CorruptStream
from headrace.storage.encodings.nested import ALIGN_BYTES, Part, finish, read, write

ESCAPE: Final = 255
MAX_SYMBOLS: Final = 255
SYMBOL_BYTES: Final = 8
SAMPLE_BYTES: Final = 16_384
ROUNDS: Final = 5

_HEADER: Final = struct.Struct("<IIB")
_RUN_BYTES: Final = 512
_BYTE: Final = 256
"""Tokens from here on are bytes of their own: token - 256."""


class Symbols(NamedTuple):
    """A table of at most 255 distinct substrings."""

    words: Array
    """uint64[n_symbols], bytes of each from the lowest up, then zeros."""
    lengths: Array
    """uint8[n_symbols], 1..8."""


class Index(NamedTuple):
    """Symbols, ordered so that the longest match is found first."""

    singles: Array
    """uint16[256]: the token of each byte on its own."""
    starts: Array
    """uint16[65537]: where symbols that start with two given bytes begin in what follows."""
    words: Array
    """uint64[n_longer], symbols of two bytes and more; equal first bytes side by side, the longest first."""
    lengths: Array
    """uint8[n_longer]."""
    tokens: Array
    """uint16[n_longer], their places in the table."""


@kernel
def _parse(
    data: Array,
    singles: Array,
    starts: Array,
    words: Array,
    lengths: Array,
    tokens: Array,
    out: Array,
    count: Array,
) -> None:
    """uint8[n + 8], zeros last, and an `Index` -> uint16[count[0]] tokens in `out`, uint16[n]: greedy, longest first."""
    n = np.uint64(len(data) - 8)
    at = np.uint64(0)
    made = np.uint64(0)
    ones = ~np.uint64(0)
    while at < n:
        word = np.uint64(0)
        for place in range(np.uint64(8)):
            word |= np.uint64(data[at + place]) << (np.uint64(8) * place)
        pair = word & np.uint64(0xFFFF)
        token = singles[word & np.uint64(0xFF)]
        length = np.uint64(1)
        for candidate in range(np.uint64(starts[pair]), np.uint64(starts[pair + np.uint64(1)])):
            long = np.uint64(lengths[candidate])
            kept = word & (ones >> (np.uint64(64) - np.uint64(8) * long))
            if kept == words[candidate] and at + long <= n:
                token = tokens[candidate]
                length = long
                break
        out[made] = token
        made += np.uint64(1)
        at += length
    count[0] = made


def _parse_python(
    data: Array,
    singles: Array,
    starts: Array,
    words: Array,
    lengths: Array,
    tokens: Array,
    out: Array,
    count: Array,
) -> None:
    """The twin of `_parse`: each match depends on the one before, so it is Python that loops."""
    text = data[:-8].tobytes()
    found = {
        word.to_bytes(8, "little")[:length]: token
        for word, length, token in zip(words.tolist(), lengths.tolist(), tokens.tolist(), strict=True)
    }
    longest: dict[bytes, list[int]] = {}
    for symbol in found:
        longest.setdefault(symbol[:2], []).append(len(symbol))
    tries = {pair: sorted(set(several), reverse=True) for pair, several in longest.items()}
    single = singles.tolist()
    made = []
    at = 0
    while at < len(text):
        for length in tries.get(text[at : at + 2], ()):
            token = found.get(text[at : at + length])
            if token is not None and at + length <= len(text):
                made.append(token)
                at += length
                break
        else:
            made.append(single[text[at]])
            at += 1
    out[: len(made)] = made
    count[0] = len(made)


@kernel
def _spell(tokens: Array, out: Array) -> None:
    """uint16[n_tokens] -> uint8[n_codes]: a byte of its own becomes an escape and the byte."""
    made = np.uint64(0)
    for i in range(np.uint64(len(tokens))):
        token = np.uint64(tokens[i])
        if token >= np.uint64(256):
            out[made] = np.uint8(255)
            made += np.uint64(1)
        out[made] = np.uint8(token & np.uint64(0xFF))
        made += np.uint64(1)


def _spell_numpy(tokens: Array, out: Array) -> None:
    """The numpy twin of `_spell`."""
    literal = tokens >= _BYTE
    at = np.arange(len(tokens)) + np.cumsum(literal)
    out[at] = tokens & np.uint16(0xFF)
    out[at[literal] - 1] = ESCAPE


@kernel
def _expand(codes: Array, words: Array, lengths: Array, out: Array, count: Array) -> None:
    """uint8[n_codes], uint64[256], uint8[256] -> uint8[n]; count[0] = bytes written, n + 1 if they were too many.

    Lengths are 0 for codes without a symbol. Never writes beyond `out`, whatever the codes say.
    """
    n = np.uint64(len(out))
    n_codes = np.uint64(len(codes))
    at = np.uint64(0)
    next_code = np.uint64(0)
    good = np.uint64(1)
    while next_code < n_codes and good:
        code = np.uint64(codes[next_code])
        next_code += np.uint64(1)
        word = words[code]
        length = np.uint64(lengths[code])
        if code == np.uint64(255):
            good = np.uint64(next_code < n_codes)
            word = np.uint64(codes[min(next_code, n_codes - np.uint64(1))])
            length = np.uint64(1)
            next_code += np.uint64(1)
        if at + np.uint64(8) <= n:
            # Eight bytes whatever the length, in one store: what is too many is overwritten by the next code.
            for place in range(np.uint64(8)):
                out[at + place] = np.uint8(word >> (np.uint64(8) * place))
        elif at + length <= n:
            for place in range(length):
                out[at + place] = np.uint8(word >> (np.uint64(8) * place))
        else:
            good = np.uint64(0)
        if length == np.uint64(0):
            good = np.uint64(0)
        at += length
    count[0] = at if good else n + np.uint64(1)


def _expand_numpy(codes: Array, words: Array, lengths: Array, out: Array, count: Array) -> None:
    """The numpy twin of `_expand`."""
    count[0] = len(out) + 1
    escape = _escapes(codes)
    if len(codes) and escape[-1]:
        return
    literal = np.zeros(len(codes), np.bool_)
    literal[1:] = escape[:-1]
    word = np.where(literal, codes, words[codes])[~escape]
    length = np.where(literal, np.uint8(1), lengths[codes])[~escape]
    ends = np.cumsum(length, dtype=np.int64)
    if not length.all() or (len(ends) and ends[-1] > len(out)):
        return
    for place in range(SYMBOL_BYTES):
        there = length > place
        out[ends[there] - length[there] + place] = (word[there] >> np.uint64(8 * place)).astype(np.uint8)
    count[0] = ends[-1] if len(ends) else 0


def _escapes(codes: Array) -> Array:
    """Which codes are escapes, bool[n_codes]: of neighbouring 255s every second one, from the first."""
    is_255 = codes == ESCAPE
    at = np.arange(len(codes))
    # Where the run of 255s that a code lies in began: behind the last code before it that is none.
    before = np.maximum.accumulate(np.where(is_255, -1, at))
    escapes: Array = is_255 & ((at - before) % 2 == 1)
    return escapes


def train(data: Array) -> Symbols:
    """Learn the symbols of a stream from a sample of it.

    Args:
        data: uint8[n].

    >>> symbols = train(np.frombuffer(b"tic tac tic tac tic " * 9, np.uint8))
    >>> [int(word).to_bytes(8, "little") for word in symbols.words[:1]]
    [b'tic tac ']
    """
    sample = _sample(data)
    symbols = Symbols(np.empty(0, np.uint64), np.empty(0, np.uint8))
    for _ in range(ROUNDS):
        symbols = _grow(symbols, _tokens(sample, symbols, len(data)))
    return symbols


class FSST(Encoding):
    """Bytes as numbers of learnt substrings."""

    id: ClassVar[int] = 15
    name: ClassVar[str] = "fsst"

    def can_encode(self, stats: Stats) -> bool:
        return stats.n > 0 and stats.dtype == np.uint8

    def size(self, stats: Stats) -> None:
        return None

    def encode(self, values: Array, child: Child | None = None) -> bytes:
        data = checked(values)
        if not len(data) or data.dtype != np.uint8:
            raise refuse_encode(
                self.name, f"it needs one byte or more, uint8, got {len(data)} of {data.dtype}"
            )
        symbols = train(data)
        tokens = _tokens(data, symbols, len(data))
        codes = np.empty(len(tokens) + int(np.count_nonzero(tokens >= _BYTE)), np.uint8)
        pick(len(data), _spell_numpy, _spell)(tokens, codes)
        raw = symbols.words.view(np.uint8).reshape(-1, SYMBOL_BYTES)
        table = raw[np.arange(SYMBOL_BYTES) < symbols.lengths[:, None]].tobytes()
        head = b"".join(
            (_HEADER.pack(len(data), len(codes), len(symbols.lengths)), symbols.lengths.tobytes(), table)
        )
        return head + bytes(-len(head) % ALIGN_BYTES) + write(codes, child)

    def decode(self, payload: Bytes, out: Array, depth: int = 0) -> None:
        target = checked_target(payload, out)
        if out.dtype != np.uint8:
            raise CorruptStream(f"fsst: expected a stream of bytes, was asked for {out.dtype}")
        words, lengths, part, n_codes = _children(payload, len(out))
        codes = np.empty(n_codes, np.uint8)
        part.decode(codes, depth)
        count = np.zeros(1, np.uint64)
        pick(len(out), _expand_numpy, _expand)(codes, words, lengths, target, count)
        if count[0] != len(out):
            raise CorruptStream(
                f"fsst: expected codes for {len(out)} bytes, found some for another number or without a symbol"
            )

    def parts(
        self, payload: Bytes, n: int, dtype: np.dtype[Any]
    ) -> tuple[tuple[str, int, Bytes, int, np.dtype[Any]], ...]:
        _, lengths, part, n_codes = _children(payload, n)
        what = f"codes of {np.count_nonzero(lengths)} symbols"
        return ((what, part.encoding.id, part.payload, n_codes, np.dtype(np.uint8)),)


def _children(payload: Bytes, n: int) -> tuple[Array, Array, Part, int]:
    """Words and lengths of all 256 codes, the child, and the number of its values."""
    if len(payload) < _HEADER.size:
        raise CorruptStream(f"fsst: expected a header of {_HEADER.size} bytes, found {len(payload)} bytes")
    stored_n, n_codes, n_symbols = _HEADER.unpack(payload[: _HEADER.size].tobytes())
    if stored_n != n or n_codes > 2 * n or n_symbols > MAX_SYMBOLS:
        raise CorruptStream(
            f"fsst: expected {n} bytes, at most twice as many codes and {MAX_SYMBOLS} symbols, "
            f"found {stored_n}, {n_codes} and {n_symbols}"
        )
    start = _HEADER.size + n_symbols
    own = payload[_HEADER.size : start]
    end = start + int(own.sum(dtype=np.int64))
    if len(own) < n_symbols or not ((own >= 1) & (own <= SYMBOL_BYTES)).all() or end > len(payload):
        raise CorruptStream(
            f"fsst: expected {n_symbols} symbols of 1 to {SYMBOL_BYTES} bytes within {len(payload)} bytes, found others"
        )
    lengths = np.zeros(256, np.uint8)
    lengths[:n_symbols] = own
    raw = np.zeros((256, SYMBOL_BYTES), np.uint8)
    raw[np.arange(SYMBOL_BYTES) < lengths[:, None]] = payload[start:end]
    part = read(payload, end + -end % ALIGN_BYTES, "fsst")
    finish(payload, part.end, "fsst")
    return raw.reshape(-1).view("<u8"), lengths, part, n_codes


def _sample(data: Array) -> Array:
    """Runs of the stream at even distances; neighbours of two runs make false pairs, but one in 512."""
    if len(data) <= SAMPLE_BYTES:
        return data
    n_runs = SAMPLE_BYTES // _RUN_BYTES
    starts = np.linspace(0, len(data) - _RUN_BYTES, n_runs).astype(np.int64)
    sample: Array = data[starts[:, None] + np.arange(_RUN_BYTES)].reshape(-1)
    return sample


def _tokens(data: Array, symbols: Symbols, n: int) -> Array:
    """Symbols and bytes that `data` is made of; `n` is the length of the whole stream, for which a kernel may pay."""
    out = np.empty(len(data), np.uint16)
    count = np.zeros(1, np.uint64)
    pick(n, _parse_python, _parse)(np.append(data, np.zeros(8, np.uint8)), *_index(symbols), out, count)
    return out[: int(count[0])]


def _index(symbols: Symbols) -> Index:
    singles = np.arange(_BYTE, 2 * _BYTE, dtype=np.uint16)
    is_single = symbols.lengths == 1
    singles[symbols.words[is_single]] = np.flatnonzero(is_single)
    longer = np.flatnonzero(~is_single)
    pairs = (symbols.words[longer] & np.uint64(0xFFFF)).astype(np.int64)
    longer = longer[np.lexsort((-symbols.lengths[longer].astype(np.int64), pairs))]
    starts = np.zeros(65_537, np.uint16)
    starts[1:] = np.cumsum(np.bincount(pairs, minlength=65_536))
    return Index(singles, starts, symbols.words[longer], symbols.lengths[longer], longer.astype(np.uint16))


def _grow(symbols: Symbols, tokens: Array) -> Symbols:
    """The best symbols among those used and the neighbours that can be joined, by bytes covered."""
    n = len(symbols.lengths)
    words = np.zeros(2 * _BYTE, np.uint64)
    lengths = np.zeros(2 * _BYTE, np.int64)
    words[:n], lengths[:n] = symbols
    words[_BYTE:], lengths[_BYTE:] = np.arange(_BYTE), 1
    uses = np.bincount(tokens, minlength=2 * _BYTE)
    used = np.flatnonzero(uses)
    pairs = np.sort(tokens[:-1].astype(np.int32) << 9 | tokens[1:])
    begins = np.flatnonzero(np.diff(pairs, prepend=-1))
    together = np.diff(begins, append=len(pairs))
    often = together > 1  # seen once, a pair saves less than its place in the table costs
    joined, together = pairs[begins[often]].astype(np.int64), together[often]
    first, second = joined >> 9, joined & 511
    fits = lengths[first] + lengths[second] <= SYMBOL_BYTES
    together, first, second = together[fits], first[fits], second[fits]
    shift = (8 * lengths[first]).astype(np.uint64)
    candidates = np.concatenate((words[used], words[first] | words[second] << shift))
    sizes = np.concatenate((lengths[used], lengths[first] + lengths[second]))
    counts = np.concatenate((uses[used], together))
    # The same bytes may come about in several ways.
    order = np.lexsort((candidates, sizes))
    candidates, sizes, counts = candidates[order], sizes[order], counts[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (candidates[1:] != candidates[:-1]) | (sizes[1:] != sizes[:-1])
    starts = np.flatnonzero(new)
    counts = np.add.reduceat(counts, starts)
    candidates, sizes = candidates[starts], sizes[starts]
    best = np.lexsort((candidates, -sizes, -counts * sizes))[:MAX_SYMBOLS]
    return Symbols(candidates[best], sizes[best].astype(np.uint8))
