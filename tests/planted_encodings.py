"""Defects of what came with file format 1.1: kernels, cascade, sequences, quantised storage, and limits on what a file may claim."""

from __future__ import annotations

from .mutant import Mutant

INTEGERS = "tests/storage/test_encodings_integers.py"
IN_PLACE = "tests/storage/test_encodings_in_place.py"
FLOATS = "tests/storage/test_encodings_floats.py"
QUANTISED = "tests/storage/test_encodings_quantised.py"
STRINGS = "tests/storage/test_encodings_strings.py"
SEQUENCES = "tests/storage/test_sequences.py"
SELECT = "tests/storage/test_select.py"
GROUPS = "tests/storage/test_row_groups.py"
BOMBS = "tests/storage/test_bombs.py"


def _mutant(name: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(name, "storage", f"storage/{file}", old, new, tests)


ENCODED = (
    _mutant(
        "a null takes a value away from the rows behind it",
        "page_rows.py",
        "        at += here\n",
        "        at += np.uint64(1)\n",
        "tests/storage/test_reads.py::test_values_are_spread_over_nulls_alike",
    ),
    _mutant(
        "an exception's high bits are added to the value before it",
        "encodings/pfor.py",
        "    out[positions] += (highs",
        "    out[positions - 1] += (highs",
        f"{INTEGERS}::test_exceptions_at_every_width",
    ),
    _mutant(
        "a single value is taken without the exception that it is",
        "encodings/pfor.py",
        "hit = np.flatnonzero(positions[found] == at)",
        "hit = np.flatnonzero(positions[found] < at)",
        f"{IN_PLACE}::test_taken_values_are_those_decoded",
    ),
    _mutant(
        "a child is taken to cost ten times what it does before anything is tried",
        "decode_cost.py",
        "CHILD_NS * children * found",
        "10 * CHILD_NS * children * found",
        f"{SELECT}::test_what_is_not_tried_would_not_have_been_chosen",
    ),
    _mutant(
        "a running sum goes on in the lane beside its own",
        "encodings/delta.py",
        "add_rows(out, at, differences, step, whole)",
        "add_rows(out, at + np.uint64(1), differences, step, whole)",
        f"{INTEGERS}::test_long_streams",
    ),
    _mutant(
        "the last, short block of sums starts from the bases of the first",
        "encodings/delta.py",
        "rest[:LANES] = bases[whole * LANES :]",
        "rest[:LANES] = bases[: len(rest[:LANES])]",
        f"{INTEGERS}::test_bytes_equal_the_oracle_and_come_back",
    ),
    _mutant(
        "a decimal is exact where it is equal, so -0.0 comes back as 0.0",
        "encodings/alp.py",
        "return integers, bits(back) == bits(values)",
        "return integers, back == values",
        f"{FLOATS}::test_decimals_equal_the_slow_twin_and_come_back",
        f"{FLOATS}::test_no_decimal_is_an_exception",
    ),
    _mutant(
        "what lies before an exception is taken for it",
        "encodings/alp.py",
        "there = positions[found] == at",
        "there = positions[found] >= at",
        f"{FLOATS}::test_take_equals_decode",
    ),
    _mutant(
        "two planes of a word change places",
        "encodings/byte_split.py",
        "            out[i] = np.uint32(\n                low | (np.uint32(p2[i]) << np.uint32(16)) | (np.uint32(p3[i])",
        "            out[i] = np.uint32(\n                low | (np.uint32(p3[i]) << np.uint32(16)) | (np.uint32(p2[i])",
        f"{FLOATS}::test_join_equals_twin_and_plain_python",
    ),
    _mutant(
        "an escape behind an escaped 255 is not told from its byte",
        "encodings/fsst.py",
        "is_255 & ((at - before) % 2 == 1)",
        "is_255 & (at - before == 1)",
        f"{STRINGS}::test_expand_equals_twin_and_plain_python",
        f"{STRINGS}::test_text_equals_the_slow_twin_and_comes_back",
    ),
    _mutant(
        "byte 0 is spelt without its escape",
        "encodings/fsst.py",
        "        if token >= np.uint64(256):",
        "        if token > np.uint64(256):",
        f"{STRINGS}::test_spell_equals_twin_and_plain_python",
    ),
    _mutant(
        "others are counted up to the end of their byte",
        "encodings/mainly_constant.py",
        "np.bitwise_count(byte >> bit))[hit]",
        "np.bitwise_count(byte))[hit]",
        f"{IN_PLACE}::test_others_are_found_in_a_bitmap_without_decoding_it",
        f"{IN_PLACE}::test_taken_values_are_those_decoded",
    ),
    _mutant(
        "the last copy of a row leaves its last item out",
        "encodings/listviews.py",
        "taken = front + np.int64(sizes[row]) - at",
        "taken = front + np.int64(sizes[row]) - at - 1",
        f"{SEQUENCES}::test_kernels_equal_twins_on_histories",
        f"{SEQUENCES}::test_histories_come_back",
    ),
    _mutant(
        "a skip passes over one item too many",
        "encodings/listviews.py",
        "theirs += np.int64(skip[n_copies])",
        "theirs += np.int64(skip[n_copies]) + (skip[n_copies] > 0)",
        f"{SEQUENCES}::test_kernels_equal_twins_on_histories",
        f"{SEQUENCES}::test_histories_come_back",
    ),
    _mutant(
        "a chain goes on across a change of the erase key",
        "group.py",
        "if numbers is None else sequences.restarts(numbers)",
        "if numbers is None or len(numbers) else sequences.restarts(numbers)",
        f"{GROUPS}::test_a_history_never_needs_another_persons_row",
    ),
    _mutant(
        "time to decode costs nothing",
        "select.py",
        "return self.predicted_bytes * profile.ns_per_byte + self.decode_ns",
        "return self.predicted_bytes * profile.ns_per_byte",
        SELECT,
    ),
    _mutant(
        "what cannot be erased in place is chosen where all must be",
        "select.py",
        '            (not self.in_place or (encoding.in_place and name != "byte_split"))\n            and encoding.can_encode(counted)',
        "            encoding.can_encode(counted)",
        f"{SELECT}::test_in_place_gives_only_what_can_be_erased_in_place",
        f"{GROUPS}::test_compliance_keeps_everything_erasable_in_place",
    ),
    _mutant(
        "the profile for compliance looks after personal columns alone",
        "writer.py",
        "in_place=profile.in_place,",
        "in_place=profile.in_place and guarded,",
        f"{GROUPS}::test_compliance_keeps_everything_erasable_in_place",
    ),
    _mutant(
        "a payload may be twice as large as plain",
        "select.py",
        "if len(written[1]) <= values.nbytes * SLACK else",
        "if len(written[1]) <= values.nbytes * 2 else",
        f"{SELECT}::test_nothing_is_larger_than_plain_and_a_hundredth_even_where_the_caller_insists",
        f"{SELECT}::test_never_larger_than_plain",
    ),
    _mutant(
        "statistics take the last value for the largest",
        "statistics.py",
        "struct.pack(form, int(values.max()))",
        "struct.pack(form, int(values[-1]))",
        "tests/storage/test_statistics.py::test_bounds_of_every_kind",
        "tests/storage/test_statistics.py::test_no_page_with_a_matching_row_is_left_out",
    ),
    _mutant(
        "a bound is checked on the first values alone",
        "quantise.py",
        "        for report in _measured(values, kind):\n            if not bound",
        "        for report in _measured(values[:_PIECE], kind):\n            if not bound",
        "tests/storage/test_quantise.py::test_one_value_breaks_a_bound",
    ),
    _mutant(
        "halves are rounded away from zero",
        "encodings/cast.py",
        "np.uint32(0x7FFF) + (kept & np.uint32(1))",
        "np.uint32(0x8000)",
        f"{QUANTISED}::test_codes_are_the_nearest",
    ),
    _mutant(
        "a code as stored gets the scale of the block behind its own",
        "as_stored.py",
        "out[:] = (first + at // BLOCK_VALUES)",
        "out[:] = (first + (at + 1) // BLOCK_VALUES)",
        "tests/storage/test_as_stored.py::test_taken_rows_are_those_of_a_scan",
    ),
    _mutant(
        "columns may take together what each alone may",
        "page_streams.py",
        "    if n_bytes > memory_bytes and n_bytes > EXPANSION * sum(stored):",
        "    if n_bytes < 0:",
        f"{BOMBS}::test_no_bomb_goes_off",
    ),
    _mutant(
        "nulls of wide lists take memory that nothing pays for",
        "fetch.py",
        "if room > NULL_ROW_BYTES and",
        "if room < 0 and",
        f"{BOMBS}::test_no_bomb_goes_off",
    ),
)
