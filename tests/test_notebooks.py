"""Every notebook runs, from the first cell to the last, on what a demo has stored; in git it holds no outputs."""

from __future__ import annotations

import base64
import json
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets.config import Config

from .conftest import Demo
from .tree import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FIGURES = {"01_stream.ipynb": 5, "02_learners.ipynb": 5, "03_store.ipynb": 3, "04_scheduler.ipynb": 4}
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
NAMES = [path.name for path in NOTEBOOKS]


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A folder with a short name: the path of a Unix socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="nb") as folder:
        yield Path(folder)


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder outside the checkout, which also gets what IPython, Jupyter and matplotlib like to keep."""
    for name in (
        "IPYTHONDIR",
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_DATA_DIR",
        "JUPYTER_RUNTIME_DIR",
        "MPLCONFIGDIR",
    ):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    folder = tmp_path / "notebooks"
    folder.mkdir()
    return folder


def _client(notebook: nbformat.NotebookNode, folder: Path, sockets: Path) -> NotebookClient:
    """A client whose kernel is this interpreter, works in `folder`, and opens no port."""
    config = Config({"KernelManager": {"transport": "ipc", "ip": str(sockets / "k")}})
    return NotebookClient(
        notebook,
        config=config,
        kernel_name="python3",
        timeout=240,
        resources={"metadata": {"path": str(folder)}},
    )


def _outputs(notebook: nbformat.NotebookNode) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def test_every_notebook_is_accounted_for() -> None:
    assert sorted(FIGURES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_in_git_holds_no_outputs(name: str) -> None:
    raw = json.loads((ROOT / "notebooks" / name).read_text(encoding="utf-8"))
    assert raw["metadata"] == METADATA
    for cell in raw["cells"]:
        assert cell["metadata"] == {}
        assert "attachments" not in cell
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
    nbformat.validate(nbformat.from_dict(raw))


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_on_a_demo(
    name: str, demo: Demo, away: Path, sockets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_TABLE", str(demo.root / "tables/ad_feed"))
    path = ROOT / "notebooks" / name
    before = path.read_bytes()
    notebook = nbformat.read(path, as_version=4)
    _client(notebook, away, sockets).execute()
    outputs = _outputs(notebook)
    assert [o.text for o in outputs if o.output_type == "stream"] == [], "a notebook neither prints nor warns"
    figures = [base64.b64decode(o.data["image/png"]) for o in outputs if "image/png" in o.get("data", {})]
    assert len(figures) == FIGURES[name]
    for figure in figures:
        width, height = struct.unpack(">II", figure[16:24])  # of a PNG's first chunk
        assert width > 300
        assert height > 60
    assert path.read_bytes() == before
    assert list(away.iterdir()) == []


def test_the_stream_notebook_finds_a_demo_above_it(demo: Demo, away: Path, sockets: Path) -> None:
    (away.parent / ".headrace").mkdir()
    (away.parent / ".headrace/demo").symlink_to(demo.root)
    notebook = nbformat.read(ROOT / "notebooks/01_stream.ipynb", as_version=4)
    notebook.cells = notebook.cells[:2]
    _client(notebook, away, sockets).execute()
    [output] = _outputs(notebook)
    assert " rows in " in output.data["text/plain"]


def test_the_stream_notebook_notices_a_metric_that_is_wrong(
    demo: Demo, away: Path, sockets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_TABLE", str(demo.root / "tables/ad_feed"))
    notebook = nbformat.read(ROOT / "notebooks/01_stream.ipynb", as_version=4)
    check = next(cell for cell in notebook.cells if "def compare(" in cell.source)
    check.source = check.source.replace("last = scored[-1]", "last = scored[-1]\nlabel[resolved[0]] ^= 1")
    with pytest.raises(CellExecutionError, match="AssertionError"):
        _client(notebook, away, sockets).execute()
