"""Rivals are pinned line by line and built once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.environments import RIVALS, BadRequirements, environment_of, pins


@pytest.fixture
def rivals(tmp_path: Path) -> Path:
    (tmp_path / "rivals" / "nobody").mkdir(parents=True)
    (tmp_path / "rivals" / "nobody" / "requirements.txt").write_text("# needs nothing\n\n")
    return tmp_path / "rivals"


def test_pins_are_read(rivals: Path) -> None:
    (rivals / "nobody" / "requirements.txt").write_text("alpha==1.0  # why\nbeta.gamma==2.0.post1+cpu\n")
    assert pins("nobody", rivals) == {"alpha": "1.0", "beta.gamma": "2.0.post1+cpu"}


@pytest.mark.parametrize(
    "line", ["alpha", "alpha>=1", "alpha==1.*", "alpha==1; extra", "-r other.txt", "alpha[x]==1"]
)
def test_what_is_not_pinned_is_refused(rivals: Path, line: str) -> None:
    (rivals / "nobody" / "requirements.txt").write_text(f"good==1\n{line}\n")
    with pytest.raises(BadRequirements, match="line 2: expected name==version"):
        pins("nobody", rivals)


def test_a_rival_without_requirements_is_refused(rivals: Path) -> None:
    with pytest.raises(BadRequirements, match=r"requirements\.txt"):
        pins("stranger", rivals)


def test_an_environment_is_built_once_and_again_when_it_was_left_half_done(
    rivals: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    first = environment_of("nobody", rivals, tmp_path / "cache", said.append)
    assert environment_of("nobody", rivals, tmp_path / "cache", said.append) == first
    assert len(said) == 1
    seen = subprocess.run(
        [str(first.python), "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True
    )
    assert Path(seen.stdout.strip()) == first.python.parents[1]
    (first.python.parents[1] / ".complete").unlink()
    environment_of("nobody", rivals, tmp_path / "cache", said.append)
    assert len(said) == 2


def test_other_pins_are_another_environment(
    rivals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import environments

    commands: list[list[str]] = []

    def record(command: list[str], rival: str) -> None:
        commands.append(command)
        (Path(tmp_path) / "cache").mkdir(exist_ok=True)
        if "venv" in command:
            Path(command[-1]).mkdir()

    monkeypatch.setattr(environments, "_run", record)
    first = environment_of("nobody", rivals, tmp_path / "cache")
    (rivals / "nobody" / "requirements.txt").write_text("alpha==1.0\n")
    second = environment_of("nobody", rivals, tmp_path / "cache")
    assert first.python != second.python
    assert second.versions == {"alpha": "1.0"}
    install, check = commands[2:]
    assert "install" in install
    assert "--no-deps" in install
    assert "check" in check


def test_every_rival_of_ours_is_pinned() -> None:
    for rival in sorted(path.name for path in RIVALS.iterdir() if path.is_dir()):
        assert pins(rival), rival
