"""The settings file: what is refused, what overrides what, and that secrets stay out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.jobs.errors import BadSettings
from headrace.jobs.install import settings_text
from headrace.jobs.settings import Clicks, Settings, read_settings


def written(folder: Path, text: str) -> Path:
    path = folder / "headrace.toml"
    path.write_text(text)
    return path


def test_the_file_that_setup_writes_reads_back_as_the_same_settings(tmp_path: Path) -> None:
    settings = Settings(clicks=Clicks(enabled=True, context=("domain", "hour")))
    assert read_settings(written(tmp_path, settings_text(Settings()))) == Settings()
    assert read_settings(written(tmp_path, settings_text(settings))) == settings


def test_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, '[stream]\ntopic = "from_file"\nlateness_s = 5.0\n')
    monkeypatch.setenv("HEADRACE_STREAM__TOPIC", "from_environment")
    settings = read_settings(path)
    assert settings.stream.topic == "from_environment"
    assert settings.stream.lateness_s == 5.0


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[stream]\ntopik = 'x'\n", "stream.topik"),
        ("[stream]\nmax_events_per_batch = 0\n", "stream.max_events_per_batch"),
        ("[stream]\ncheck_rows = 10\n", "stream.check_rows"),
        ("[kafka]\nsecurity_protocol = 'SASL_SSL'\n", "sasl_mechanism"),
        ("[kafka]\nsasl_password = 'hunter2'\n", "HEADRACE_KAFKA__SASL_PASSWORD"),
        ("not toml", "is not TOML"),
    ],
)
def test_a_misfit_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(BadSettings, match=named) as caught:
        read_settings(written(tmp_path, text))
    assert "hunter2" not in str(caught.value)


def test_a_missing_file_says_what_writes_one(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="headrace setup"):
        read_settings(tmp_path / "absent.toml")


def test_a_password_reaches_both_clients_from_a_file_and_no_representation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "kafka.password"
    secret.write_text('pa"ss\\word\n')
    text = f"[kafka]\nsecurity_protocol='SASL_SSL'\nsasl_mechanism='SCRAM-SHA-512'\nsasl_username='ada'\nsasl_password_file='{secret}'\n"
    kafka = read_settings(written(tmp_path, text)).kafka
    assert kafka.client_options()["sasl_plain_password"] == 'pa"ss\\word'
    assert 'password="pa\\"ss\\\\word";' in kafka.spark_options()["kafka.sasl.jaas.config"]
    monkeypatch.setenv("HEADRACE_KAFKA__SASL_PASSWORD", "canary-7")
    kafka = read_settings(written(tmp_path, text)).kafka
    assert kafka.password() == "canary-7"
    assert "canary-7" not in repr(kafka)
    assert "canary-7" not in kafka.model_dump_json()
