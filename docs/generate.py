"""Write what is generated from the contracts anew: their reference pages and their great-expectations suites.

Run by ``make docs``; the tests compare what is committed with what this would write.
"""

from __future__ import annotations

from pathlib import Path

from headrace.streaming.contracts import SHIPPED, load
from headrace.streaming.contracts.expectations import suite_json
from headrace.streaming.contracts.reference import to_markdown

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Write one page and one suite per shipped contract."""
    for name in SHIPPED:
        contract = load(name)
        page = ROOT / "docs" / "reference" / f"contracts-{name.replace('_', '-')}.md"
        page.write_text(to_markdown(contract), "utf-8")
        (ROOT / "streaming" / "contracts" / "suites" / f"{name}.json").write_bytes(suite_json(contract))


if __name__ == "__main__":
    main()
