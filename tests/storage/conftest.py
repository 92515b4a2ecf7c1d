"""The fake object store, for every test of the store that needs one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .fake_s3 import FakeS3, fake_s3


@pytest.fixture(scope="module")
def server() -> Iterator[FakeS3]:
    with fake_s3() as s3:
        yield s3


@pytest.fixture
def s3(server: FakeS3, monkeypatch: pytest.MonkeyPatch) -> FakeS3:
    """The server, empty, and this process's environment leading to it."""
    server.objects.clear()
    server.requests.clear()
    server.fail_next = server.forget_answers = 0
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server
