"""Encodings of flat streams: one module each, an explicit tuple, permanent wire ids.

`ALL` is every encoding that exists, `BY_ID` finds one by the id in a page, and `RESERVED_IDS` names the ids that the
format has set aside, so that none is ever given out twice. Which encoding a stream gets is not decided here but in
`headrace.storage.select`. Importing this package compiles nothing and does not import numba.

>>> import numpy as np
>>> payload = BY_ID[2].encode(np.arange(1000, 1010))
>>> out = np.empty(10, np.int64)
>>> BY_ID[2].decode(np.frombuffer(payload, np.uint8), out)
>>> out[-1].item()
1009
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from headrace.storage.encodings._jit import Workload, prefer_kernels
from headrace.storage.encodings.alp import ALP
from headrace.storage.encodings.bitmap import Bitmap
from headrace.storage.encodings.bitpack import BitPack
from headrace.storage.encodings.byte_split import ByteSplit
from headrace.storage.encodings.cast import Cast
from headrace.storage.encodings.constant import Constant
from headrace.storage.encodings.contract import DTYPES, Encoding, Stats
from headrace.storage.encodings.counting import stats
from headrace.storage.encodings.delta import Delta
from headrace.storage.encodings.dictionary import Dictionary
from headrace.storage.encodings.errors import CannotEncode, CorruptStream, EncodingError, UnsupportedArray
from headrace.storage.encodings.fsst import FSST
from headrace.storage.encodings.int8 import Int8
from headrace.storage.encodings.mainly_constant import MainlyConstant
from headrace.storage.encodings.pfor import PFOR
from headrace.storage.encodings.plain import Plain
from headrace.storage.encodings.rle import RLE
from headrace.storage.encodings.sparse_bool import SparseBool
from headrace.storage.encodings.varint import Varint
from headrace.storage.encodings.zigzag import Zigzag
from headrace.storage.encodings.zstd import Zstd

ALL: Final[tuple[Encoding, ...]] = (
    Constant(),
    Plain(),
    BitPack(),
    PFOR(),
    Dictionary(),
    RLE(),
    Delta(),
    Varint(),
    Zigzag(),
    ByteSplit(),
    ALP(),
    Bitmap(),
    SparseBool(),
    MainlyConstant(),
    Cast(),
    Int8(),
    FSST(),
    Zstd(),
)

BY_ID: Final[Mapping[int, Encoding]] = MappingProxyType({encoding.id: encoding for encoding in ALL})

RESERVED_IDS: Final[Mapping[int, str]] = MappingProxyType(
    {
        11: "ALP_RD: high and low parts of real doubles",
        16: "STRING: offsets and bytes",
        17: "SEQ_SLIDE: lists that slide by a few items per row",
        20: "SPLIT32: float32 as two 16-bit halves, lossless",
        31: "LZ4: last stage over any stream",
    }
)
"""Wire ids that no encoding here has and none may take for another purpose. A reader refuses them by name."""

__all__ = [
    "ALL",
    "BY_ID",
    "DTYPES",
    "RESERVED_IDS",
    "CannotEncode",
    "CorruptStream",
    "Encoding",
    "EncodingError",
    "Stats",
    "UnsupportedArray",
    "Workload",
    "prefer_kernels",
    "stats",
]
