"""What a person sees of the hierarchy: counts, a tree of text, events by name, and a picture of clusters over time."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.streaming.learners.ihomer.global_tree import GlobalTree
from headrace.streaming.learners.ihomer.label_odac import LabelODAC

_SHOWN = 8
"""Labels of a cluster that are named; of the others their number is given."""


@dataclass(frozen=True)
class Event:
    """A change of the structure after row `row`: "split", "merge", "drift", "alarm", "swap" or "give up", of these clusters."""

    row: int
    kind: str
    before: tuple[tuple[Any, ...], ...] = ()
    after: tuple[tuple[Any, ...], ...] = ()

    def as_row(self) -> dict[str, Any]:
        """Plain values, for tables and logs."""
        return {
            "row": self.row,
            "kind": self.kind,
            "before": [[str(label) for label in cluster] for cluster in self.before],
            "after": [[str(label) for label in cluster] for cluster in self.after],
        }


def events(odac: LabelODAC, core: Any, names: list[Any]) -> list[Event]:
    """All events by name, in the order of the rows. A label dropped since then keeps its place, not its name."""
    found = [Event(change.row, change.kind, change.before, change.after) for change in odac.changes]
    for event in core.events if core is not None else []:
        labels = tuple(names[i] if i < len(names) else f"dropped {i}" for i in event.labels)
        found.append(Event(event.row, event.kind, (labels,) if labels else ()))
    return sorted(found, key=lambda event: event.row)


def summary(model: Any) -> dict[str, int]:
    """Counts of what there is and of what has happened."""
    core = model._core
    kinds = [event.kind for event in model.events]
    learner = core.learner if core is not None else None
    return {
        "n_learned": model.n_learned,
        "n_refused": model.n_refused,
        "n_features": core.features if core is not None else 0,
        "n_labels": core.labels if core is not None else 0,
        "n_clusters": len(model.clusters),
        "height": model._odac.height,
        "n_splits": kinds.count("split"),
        "n_merges": kinds.count("merge"),
        "n_drifts": kinds.count("drift"),
        "n_swaps": kinds.count("swap") + (learner.n_swaps if isinstance(learner, GlobalTree) else 0),
        "n_tree_leaves": len(learner.root.leaves()) if isinstance(learner, GlobalTree) else 0,
    }


def render_ascii(odac: LabelODAC, clusters: list[set[Any]]) -> str:
    """The label tree, a line per cluster; without one, the clusters."""
    if len(odac.nodes) < 2:
        return "\n".join(_named(sorted(cluster, key=str)) for cluster in clusters)
    lines: list[str] = []

    def below(key: int, indent: str, branch: str) -> None:
        node = odac.nodes[key]
        if node.children is None:
            lines.append(f"{indent}{branch}{_named([odac.labels[i] for i in sorted(node.members)])}")
            return
        lines.append(f"{indent}{branch}split, kept {node.gain:+.2f} over chance (bound {node.eps:.2f})")
        deeper = indent + {"": "", "├─ ": "│  ", "└─ ": "   "}[branch]
        for child, mark in zip(node.children, ("├─ ", "└─ "), strict=True):
            below(child, deeper, mark)

    below(0, "", "")
    return "\n".join(lines)


def _named(labels: list[Any]) -> str:
    rest = len(labels) - _SHOWN
    return ", ".join(str(label) for label in labels[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def history(odac: LabelODAC) -> tuple[list[int], Any]:
    """The rows at which the clusters changed, beginning with 0, and int64[changes+1, L]: the cluster of each label from then on.

    Clusters are numbered as they came; a label that was not there yet counts to the cluster of its first row.
    """
    place = {label: i for i, label in enumerate(odac.labels)}
    now = np.zeros(len(place), np.int64)
    rows, states, number = [0], [now.copy()], 0
    for change in odac.changes:
        for cluster in change.after:
            number += 1
            now[[place[label] for label in cluster if label in place]] = number
        rows.append(change.row)
        states.append(now.copy())
    return rows, np.array(states)


def plot(model: Any, axes: Any) -> Any:
    """Labels from top to bottom, rows from left to right, clusters as colours; drift as dashed lines."""
    rows, states = history(model._odac)
    order = np.lexsort(states[::-1]) if states.size else np.zeros(0, np.int64)
    edges = [*rows, max(model.n_learned, rows[-1] + 1)]
    axes.pcolormesh(edges, np.arange(len(order) + 1), states[:, order].T % 20, cmap="tab20", vmin=0, vmax=19)
    if len(order) <= 40:
        axes.set_yticks(np.arange(len(order)) + 0.5, [str(model._odac.labels[i]) for i in order], fontsize=7)
    for event in model.events:
        if event.kind == "drift":
            axes.axvline(event.row, color="black", linestyle="--", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("rows learnt")
    axes.set_ylabel("labels")
    axes.set_title("label clusters over time (dashed: drift)")
    return axes
