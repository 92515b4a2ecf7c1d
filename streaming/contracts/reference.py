"""A contract as a reference page for people who produce to a topic or read its table."""

from __future__ import annotations

from headrace.streaming.contracts.contract import Column, Contract, FeatureMap


def to_markdown(contract: Contract) -> str:
    """The page kept as `docs/reference/contracts-<topic>.md`; only derived from the contract, never edited."""
    features = contract.features
    lines = [
        f"# Contract: {contract.topic}, version {contract.version}",
        "",
        contract.doc,
        "",
        "Values are never converted: a number in quotes is no number, and `3.0` is no integer. Keys that are not listed",
        "are ignored. An event that breaks a rule goes to the dead-letter topic with the rules it breaks, such as",
        f"`{contract.rules[0]}`; nothing else of the batch is held up.",
        "",
        "| Column | Type | Required | Rules | Meaning |",
        "| --- | --- | --- | --- | --- |",
        *(_row(column) for column in contract.columns),
        "",
        "## What the columns are for",
        "",
        *(f"- {part}: {names}" for part, names in _parts(features)),
    ]
    return "\n".join(lines) + "\n"


def _row(column: Column) -> str:
    required = "yes" if column.required is True else "no"
    if isinstance(column.required, tuple):
        required = "for " + ", ".join(column.required)
    cells = (f"`{column.name}`", column.type_name, required, "; ".join(_rules(column)), column.doc)
    # A bar would end the cell.
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _rules(column: Column) -> list[str]:
    rules = []
    if column.between is not None:
        rules.append("from {} to {}".format(*column.between))
    elif column.is_float:
        rules.append("finite")
    if column.in_set is not None:
        rules.append("one of " + ", ".join(f"`{value}`" for value in column.in_set))
    if column.max_length is not None:
        rules.append(f"at most {column.max_length} {'items' if column.is_list else 'characters'}")
    if column.pattern is not None:
        rules.append(f"matches `{column.pattern}`")
    return rules


def _parts(features: FeatureMap) -> list[tuple[str, str]]:
    parts: list[tuple[str, tuple[str | None, ...]]] = [
        ("unique id", (features.event_id,)),
        ("event time", (features.event_time,)),
        ("Kafka key", (features.key,)),
        ("kind of event", (features.kind,)),
        ("names the person whose events can be erased", (features.erase_key,)),
        ("personal data", features.personal),
        ("domain", (features.domain,)),
        ("item", (features.item,)),
        ("hashed categories", features.ids),
        ("real-valued features", features.dense),
        ("lists of earlier items, newest first", features.histories),
    ]
    listed = [(part, ", ".join(f"`{name}`" for name in names if name)) for part, names in parts if any(names)]
    label = features.label
    if label is not None and label.kind == "inline":
        listed.append(("label", f"positive where `{label.column}` is at least {label.positive_at}"))
    elif label is not None:
        within = f"within {label.window_s:g} seconds"
        listed.append(
            (
                "label",
                f"positive where a `{label.click}` names the `{label.impression}` in `{label.refers_to}` {within}",
            )
        )
    return listed
