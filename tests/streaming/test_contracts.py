"""Contracts: what the loader refuses and how it says so, and everything that is derived from a contract."""

import pickle
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from headrace.streaming.contracts import SHIPPED, BadContract, Contract, check_version, gate, load
from headrace.streaming.contracts.decode import REASONS
from headrace.streaming.contracts.reference import to_markdown
from headrace.streaming.contracts.samples import sample_events
from headrace.streaming.contracts.toml_file import parse

HERE = Path(__file__).parent
EVERY_TYPE = HERE / "contracts_for_tests" / "every_type.toml"
DOCS = HERE.parents[1] / "docs" / "reference"

SMALL = """
topic = "t"
version = 1
[[columns]]
name = "id"
type = "string"
required = true
[[columns]]
name = "at"
type = "timestamp"
required = true
[[columns]]
name = "x"
type = "float32"
[[columns]]
name = "n"
type = "int8"
[features]
event_id = "id"
event_time = "at"
key = "id"
"""


def contracts() -> list[Contract]:
    return [load(name) for name in SHIPPED] + [load(EVERY_TYPE)]


def test_small_contract_loads() -> None:
    contract = parse(SMALL)
    assert contract.names == ("id", "at", "x", "n")
    assert contract.schema.field("at").type == pa.timestamp("us", tz="UTC")
    assert contract.rules == ("required:id", "required:at", "finite:x")
    assert contract.kinds == ()


@pytest.mark.parametrize(
    ("old", "new", "key", "expected", "got"),
    [
        ('topic = "t"', 'topic = "a b"', "topic", "characters", "'a b'"),
        ('topic = "t"', "topic = 3", "topic", "a string", "3"),
        ("version = 1", "version = 0", "version", "an integer from 1", "0"),
        ("version = 1", "version = true", "version", "an integer", "True"),
        ("version = 1", "", "version", "an integer", "nothing"),
        ("version = 1", "version = 1\nverison = 2", "verison", "one of the keys", "an unknown key"),
        ('name = "x"', 'name = "id"', "columns[2].name", "used once", "'id'"),
        ('name = "x"', 'name = "_x"', "columns[2].name", "letters", "'_x'"),
        ('name = "x"', 'name = "class"', "columns[2].name", "keyword", "'class'"),
        ('name = "x"', 'name = "prediction"', "columns[2].name", "prediction", "'prediction'"),
        ('type = "float32"', 'type = "float"', "columns[2].type", "one of int8", "'float'"),
        ('type = "float32"', 'type = "list<float32>"', "columns[2].type", "one of int8", "'list<float32>'"),
        (
            'type = "float32"',
            'type = "float32"\nbetwen = [0, 1]',
            "columns[2].betwen",
            "one of the keys",
            "unknown",
        ),
        (
            'type = "float32"',
            'type = "float32"\nbetween = [1, 0]',
            "columns[2].between",
            "the lower first",
            "[1, 0]",
        ),
        (
            'type = "float32"',
            'type = "float32"\nbetween = [nan, 1]',
            "columns[2].between",
            "finite",
            "[nan, 1]",
        ),
        ('type = "float32"', 'type = "float32"\nbetween = [0]', "columns[2].between", "two", "[0]"),
        (
            'type = "float32"',
            'type = "float32"\nin_set = [1]',
            "columns[2].in_set",
            "only on strings",
            "float32",
        ),
        (
            'type = "float32"',
            'type = "float32"\nmax_length = 3',
            "columns[2].max_length",
            "only on",
            "float32",
        ),
        ('type = "float32"', 'type = "float32"\npattern = "^a$"', "columns[2].pattern", "only on", "float32"),
        ('type = "float32"', 'type = "float32"\nrequired = "yes"', "columns[2].required", "array", "'yes'"),
        ('type = "float32"', 'type = "float32"\nrequired = ["a"]', "columns[2].required", "no kinds", "'a'"),
        (
            'type = "int8"',
            'type = "int8"\nbetween = [0, 128]',
            "columns[3].between",
            "limit of int8",
            "[0, 128]",
        ),
        ('type = "int8"', 'type = "int8"\nbetween = [0, 1.5]', "columns[3].between", "integers", "[0, 1.5]"),
        ('type = "int8"', 'type = "int8"\nin_set = [1, 1]', "columns[3].in_set", "different", "[1, 1]"),
        ('type = "int8"', 'type = "int8"\nin_set = [true]', "columns[3].in_set", "integers", "[True]"),
        ('type = "int8"', 'type = "int8"\nin_set = [300]', "columns[3].in_set", "type int8", "[300]"),
        (
            'type = "int8"',
            'type = "int64"\nbetween = [0, 9007199254740993]',
            "columns[3].between",
            "2**53",
            "[0, 9007199254740993]",
        ),
        ('type = "string"', 'type = "string"\npattern = "a"', "columns[0].pattern", "^…$", "'a'"),
        ('type = "string"', 'type = "string"\npattern = "^(?=a)$"', "columns[0].pattern", "(?:", "(?=a)"),
        ('type = "string"', 'type = "string"\npattern = "^(a)$"', "columns[0].pattern", "capturing", "(a)"),
        ('type = "string"', "type = \"string\"\npattern = '^\\s$'", "columns[0].pattern", "no \\s", "\\s"),
        ('type = "string"', 'type = "string"\npattern = "^[a$"', "columns[0].pattern", "RE2", "[a"),
        ('type = "string"', 'type = "string"\nmax_length = -1', "columns[0].max_length", "from 0", "-1"),
        (
            'type = "timestamp"',
            'type = "timestamp"\nbetween = [1, 2]',
            "columns[1].between",
            "offset",
            "[1, 2]",
        ),
        (
            'type = "timestamp"',
            'type = "timestamp"\nbetween = [2020-01-01T00:00:00, 2021-01-01T00:00:00]',
            "columns[1].between",
            "offset",
            "datetime",
        ),
        ('event_id = "id"', 'event_id = "no"', "features.event_id", "name of a column", "'no'"),
        ('event_id = "id"', 'event_id = "n"', "features.event_id", "required = true", "'n'"),
        ('event_time = "at"', 'event_time = "id"', "features.event_time", "a timestamp", "id of type string"),
        ('key = "id"', 'key = "id"\nids = ["x"]', "features.ids", "strings, integers", "x of type float32"),
        ('key = "id"', 'key = "id"\ndense = ["id"]', "features.dense", "numbers", "id of type string"),
        ('key = "id"', 'key = "id"\nhistories = ["x"]', "features.histories", "lists", "x of type float32"),
        ('key = "id"', 'key = "id"\nids = ["n", "n"]', "features.ids", "each name once", "['n', 'n']"),
        ('key = "id"', 'key = "id"\nkind = "id"', "features.kind", "in_set", "'id'"),
        (
            'key = "id"',
            'key = "id"\n[features.label]\ncolumn = "id"\npositive_at = 1',
            "features.label.column",
            "a number",
            "string",
        ),
        (
            'key = "id"',
            'key = "id"\n[features.label]\ncolumn = "x"\npositive_at = nan',
            "features.label.positive_at",
            "finite",
            "nan",
        ),
        (
            'key = "id"',
            'key = "id"\n[features.label]\nrefers_to = "id"\nimpression = "a"\nclick = "b"\nwindow_s = 1',
            "features.kind",
            "impressions from clicks",
            "nothing",
        ),
    ],
)
def test_bad_contract_names_the_key(old: str, new: str, key: str, expected: str, got: str) -> None:
    assert SMALL.count(old) >= 1
    with pytest.raises(BadContract) as caught:
        parse(SMALL.replace(old, new, 1), file="bad.toml")
    error = caught.value
    assert error.key == key
    assert error.file == "bad.toml"
    assert expected in error.expected
    assert got in error.got
    assert error.advice
    assert str(error).startswith(f"bad.toml: {key}: expected ")


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('impression = "shown"', 'impression = "seen"', "features.label.impression"),
        ('click = "clicked"', 'click = "shown"', "features.label.refers_to"),
        ("window_s = 60", "window_s = 0", "features.label.window_s"),
        ('refers_to = "of"', 'refers_to = "text"', "features.label.refers_to"),
        ('required = ["clicked", "bought"]', 'required = ["clickd"]', "features.label.refers_to"),
        ('required = ["shown"]', 'required = ["show"]', "columns[7].required"),
        ('required = ["shown"]', "required = []", "columns[7].required"),
        ("window_s = 60", 'window_s = 60\ncolumn = "int8"', "features.label.impression"),
    ],
)
def test_bad_kinds_and_labels(old: str, new: str, key: str) -> None:
    text = EVERY_TYPE.read_text()
    with pytest.raises(BadContract) as caught:
        parse(text.replace(old, new, 1))
    assert caught.value.key == key


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadContract, match=r"a shipped topic \(ad_feed, movielens\).*no such file"):
        load(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("topic = ")
    with pytest.raises(BadContract, match=r"bad\.toml: \(syntax\)"):
        load(tmp_path / "bad.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(BadContract, match="UTF-8"):
        load(tmp_path / "bytes.toml")


def test_float32_bounds_are_rounded_like_the_values() -> None:
    low, high = load(EVERY_TYPE).column("float32").between or ()
    assert (low, high) == (-0.10000000149011612, 0.10000000149011612)


@pytest.mark.parametrize("contract", contracts(), ids=lambda contract: contract.topic)
def test_contracts_travel_and_hash(contract: Contract) -> None:
    contract.schema  # noqa: B018  fill the caches before travelling
    assert pickle.loads(pickle.dumps(contract)) == contract  # noqa: S301
    assert hash(pickle.loads(pickle.dumps(contract))) == hash(contract)  # noqa: S301


def sampled_contracts() -> list[Contract]:
    text = EVERY_TYPE.read_text()
    assert "(?:\\d{2}|[a-c]+\\b.?)" in text
    return [load(name) for name in SHIPPED] + [parse(text.replace("(?:\\d{2}|[a-c]+\\b.?)", "[a-c]{2}\\d*"))]


@pytest.mark.parametrize("contract", sampled_contracts(), ids=lambda contract: contract.topic)
def test_samples_pass_the_gate(contract: Contract) -> None:
    batch = sample_events(contract, 200, seed=3)
    batch.validate(full=True)
    assert batch.schema == contract.schema
    assert gate(batch, contract).failures == {}
    assert batch.equals(sample_events(contract, 200, seed=3))
    assert not batch.equals(sample_events(contract, 200, seed=4))


def test_no_sample_for_a_pattern_that_is_too_free() -> None:
    contract = parse(SMALL.replace('type = "string"', 'type = "string"\npattern = "^(?:a|b)$"', 1))
    with pytest.raises(ValueError, match=r"\^\(\?:a\|b\)\$; no sample"):
        sample_events(contract, 1)


def test_spark_ddl() -> None:
    ddl = load(EVERY_TYPE).spark_ddl()
    assert ddl.startswith("`id` STRING, `time` TIMESTAMP, `user` DECIMAL(20,0), ")
    assert "`bytes` ARRAY<SMALLINT>, `big` ARRAY<DECIMAL(20,0)>, `words` ARRAY<STRING>" in ddl


def test_shipped_contracts_say_what_each_column_is() -> None:
    for name in SHIPPED:
        contract = load(name)
        assert contract.topic == name
        assert contract.doc
        assert all(column.doc for column in contract.columns)
        assert contract.features.label is not None


@pytest.mark.parametrize("name", SHIPPED)
def test_reference_page_is_the_contract(name: str) -> None:
    assert (DOCS / f"contracts-{name.replace('_', '-')}.md").read_text("utf-8") == to_markdown(load(name))


def test_the_documented_example_is_a_contract() -> None:
    page = (DOCS / "contracts.md").read_text("utf-8")
    contract = parse(page.partition("```toml\n")[2].partition("```")[0])
    assert contract.features.label is not None
    assert gate(sample_events(contract, 20), contract).failures == {}
    for reason in REASONS:
        assert f"`{reason}`" in page or f"`{reason}:<column>`" in page
    for rule in contract.rules:
        assert f"`{rule.partition(':')[0]}:…`" in page


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (None, None),
        (b"1", None),
        (b"3", None),
        (b"03", None),
        (b"4", "unknown_version"),
        (b"0", "unknown_version"),
        (b"", "unknown_version"),
        (b"-1", "unknown_version"),
        (b" 1", "unknown_version"),
        (b"1.0", "unknown_version"),
        (b"\xb2", "unknown_version"),
        (b"9" * 100_000, "unknown_version"),
    ],
)
def test_versions(header: bytes | None, reason: str | None) -> None:
    assert check_version(header, load(EVERY_TYPE)) == reason


def test_importing_contracts_imports_nothing_heavy() -> None:
    code = (
        "import sys; import headrace.streaming.contracts, headrace.streaming.contracts.expectations;"
        "print([name for name in ('great_expectations', 'pandas', 'pyspark', 'kafka', 'numba') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
