"""The doctor: each check both well and ill, with a remedy exactly when it is ill."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from headrace.streaming import doctor, jars
from headrace.streaming.doctor import Check


def is_ill(check: Check, found: str, remedy: str) -> bool:
    return not check.ok and found in check.found and remedy in check.remedy


def is_well(check: Check, found: str) -> bool:
    return check.ok and found in check.found and not check.remedy


def test_every_check_is_made_once(tmp_path: Path) -> None:
    done = doctor.checks(cache=tmp_path, data=tmp_path / "data", path=os.environ["PATH"])
    assert [check.name for check in done] == [
        *("python", "java", "make", "disk", "memory", "loopback", "cache", "data folder", "jars", "crc32c"),
        *("pyspark", "workers' python"),
    ]
    assert all(check.found and bool(check.remedy) != check.ok for check in done)
    assert not (tmp_path / "data").exists()  # looking changes nothing


def test_python() -> None:
    assert is_well(doctor.check_python((3, 12)), "3.12")
    assert is_ill(doctor.check_python((3, 10)), "3.10", "3.11 to 3.13")
    assert is_ill(doctor.check_python((3, 14)), "3.14", "3.11 to 3.13")


def test_java(tmp_path: Path) -> None:
    assert is_well(doctor.check_java(os.environ.get("JAVA_HOME"), None), "at ")
    assert is_ill(doctor.check_java(None, str(tmp_path)), "none", "install a JDK 17")


def test_make_is_no_fault(tmp_path: Path) -> None:
    assert is_well(doctor.check_make(str(tmp_path)), "none")


def test_disk_and_memory(tmp_path: Path) -> None:
    assert is_well(doctor.check_disk(tmp_path / "not" / "yet", wanted_bytes=1), "GB free")
    assert is_ill(doctor.check_disk(tmp_path, wanted_bytes=1 << 60), "GB free", "choose a folder")
    assert is_well(doctor.check_memory(3 << 30), "3.0 GB")
    assert is_ill(doctor.check_memory(1 << 30), "1.0 GB", "less memory")


def test_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_well(doctor.check_ports(), "127.0.0.1")

    def refuse(*_: object, **__: object) -> None:
        raise OSError("Operation not permitted")

    monkeypatch.setattr(doctor.socket, "create_connection", refuse)
    assert is_ill(doctor.check_ports(), "not permitted", "allow connections to 127.0.0.1")


def test_folders(tmp_path: Path) -> None:
    assert is_well(doctor.check_writable("cache", tmp_path / "a" / "b", "do so"), "can be written")
    file = tmp_path / "file"
    file.touch()
    assert is_ill(doctor.check_writable("cache", file / "cache", "do so"), "Not a directory", "do so")


def test_jars(tmp_path: Path) -> None:
    assert is_ill(doctor.check_jars(tmp_path), "46 of 46 jars", "headrace setup")
    cache = jars.cache_folder(os.environ)
    jars.resolve(cache)
    assert is_well(doctor.check_jars(cache), "50 jars")
    copy = tmp_path / "jars"
    copy.mkdir()
    for jar in jars.read_lock().all:
        (copy / jar.file).symlink_to(cache / "jars" / jar.file)
    changed = copy / jars.read_lock().connector[0].file
    changed.unlink()
    changed.write_bytes(b"PK")
    assert is_ill(doctor.check_jars(tmp_path), f"{changed.name} in", "headrace setup")


def test_crc32c() -> None:
    assert is_well(doctor.check_crc32c(lambda _: object()), "installed")
    assert is_ill(doctor.check_crc32c(lambda _: None), "four times slower", "pip install crc32c")


def test_connector() -> None:
    assert is_well(doctor.check_connector("4.2.0"), "4.2.0")
    assert is_ill(doctor.check_connector("4.3.0"), "4.3.0", "pyspark==4.2.0")
    assert is_ill(doctor.check_connector(None), "not installed", "headrace[stream]")


def test_workers_python(tmp_path: Path) -> None:
    assert is_well(
        doctor.check_interpreter(None, sys.executable, None), f"export PYSPARK_PYTHON={sys.executable}"
    )
    assert is_well(doctor.check_interpreter(sys.executable, sys.executable, None), sys.executable)
    other = tmp_path / "python3"
    other.write_text("#!/bin/sh\necho /another/environment\n")
    other.chmod(0o755)
    ill = doctor.check_interpreter("python3", sys.executable, str(tmp_path))
    assert is_ill(ill, "PYSPARK_PYTHON=python3", f"export PYSPARK_PYTHON={sys.executable}")
    assert is_ill(doctor.check_interpreter("/gone", sys.executable, None), "/gone", "export")
