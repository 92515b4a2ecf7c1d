"""The one settings file of a job, checked by a typed model.

In the flow: read once at start by ``pipeline`` and the command line, then handed down as frozen values. Sources, strongest
first: environment variables ``HEADRACE_<SECTION>__<NAME>``, the TOML file, the defaults here. Secrets are taken from the
environment or from a file that ``*_file`` names, never from the TOML file or the command line.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from headrace.jobs.errors import BadSettings


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Spark(_Section):
    """Where the job runs. ``conf`` passes any further Spark property through unchanged."""

    master: str = "local[2]"
    app_name: str = "headrace"
    driver_memory: str = "1g"
    conf: dict[str, str] = Field(default_factory=dict)


class Kafka(_Section):
    """How the broker is reached, by kafka-python and by Spark's connector alike."""

    bootstrap: str = "127.0.0.1:9092"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    sasl_password_file: Path | None = None
    ssl_cafile: Path | None = None

    def password(self) -> str | None:
        """The SASL password from the environment or its file; ``None`` where none is set."""
        if self.sasl_password is not None:
            return self.sasl_password.get_secret_value()
        if self.sasl_password_file is not None:
            return self.sasl_password_file.read_text().strip()
        return None

    def client_options(self) -> dict[str, Any]:
        """Keyword arguments for kafka-python's clients, without ``bootstrap_servers``."""
        options: dict[str, Any] = {"security_protocol": self.security_protocol}
        if self.sasl_mechanism is not None:
            options |= {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.sasl_username,
                "sasl_plain_password": self.password(),
            }
        if self.ssl_cafile is not None:
            options["ssl_cafile"] = str(self.ssl_cafile)
        return options

    def spark_options(self) -> dict[str, str]:
        """The same, as options of Spark's Kafka source."""
        options = {
            "kafka.bootstrap.servers": self.bootstrap,
            "kafka.security.protocol": self.security_protocol,
        }
        if self.sasl_mechanism is not None:
            module = (
                "org.apache.kafka.common.security.plain.PlainLoginModule"
                if self.sasl_mechanism == "PLAIN"
                else "org.apache.kafka.common.security.scram.ScramLoginModule"
            )
            quoted = [
                str(part).replace("\\", "\\\\").replace('"', '\\"')
                for part in (self.sasl_username, self.password())
            ]
            options |= {
                "kafka.sasl.mechanism": self.sasl_mechanism,
                "kafka.sasl.jaas.config": f'{module} required username="{quoted[0]}" password="{quoted[1]}";',
            }
        if self.ssl_cafile is not None:
            options |= {
                "kafka.ssl.truststore.type": "PEM",
                "kafka.ssl.truststore.location": str(self.ssl_cafile),
            }
        return options


class Stream(_Section):
    """One topic, its contract, and the table that its events land in."""

    topic: str = "ad_feed"
    contract: str = "ad_feed"
    """A shipped contract's name or the path of a contract file."""
    table: Path = Path(".headrace/tables/ad_feed")
    checkpoint: Path = Path(".headrace/checkpoints/ad_feed")
    dead_letter_topic: str | None = None
    """Defaults to ``<topic>.dlq``."""
    trigger_ms: int = Field(default=1_000, ge=0)
    """Shortest time from one micro-batch's start to the next one's."""
    max_events_per_batch: int = Field(default=50_000, ge=1)
    lateness_s: float = Field(default=600.0, ge=0)
    """How far behind its partition's watermark an event may come; also how long duplicates are remembered."""
    ahead_s: float = Field(default=600.0, gt=0)
    """How far an event's time may lie after that of its message; beyond, it is dead. Up to ``lateness_s``, none makes late what is on time."""
    max_event_bytes: int = Field(default=512 * 1024, ge=1_024)
    check_rows: int = Field(default=10_000, ge=10_000)
    """Rows per batch that great-expectations checks besides every rejected one."""

    @property
    def dead_letters(self) -> str:
        """Name of the dead-letter topic."""
        return self.dead_letter_topic or f"{self.topic}.dlq"


class Learner(_Section):
    """The click model on hashed ids. Ignored for a contract that declares no label."""

    enabled: bool = True
    bits: int = Field(default=16, ge=8, le=24)
    """2**bits weights."""
    learning_rate: float = Field(default=0.1, gt=0)
    """FTRL's alpha: the first step's size, which then shrinks per weight."""
    window_events: int = Field(default=5_000, ge=100)
    """Scored events per metrics window."""


class Scheduler(_Section):
    """How the users of one Spark application share it; see ``headrace.scheduler.Settings``."""

    policy: Literal["uwfq", "ujf", "cfq", "fifo", "none"] = "uwfq"
    """``none`` is Spark's own order."""
    clock: Literal["self", "wall"] = "self"
    weights: dict[str, float] = Field(default_factory=lambda: {"pipeline": 2.0})
    caps: dict[str, float] = Field(default_factory=dict)
    history: Path | None = None
    """Where learnt costs outlive the application."""


class Tags(_Section):
    """The multi-label learner of a list<string> column. Off where no column is named, but in ``train_tags.py``."""

    column: str | None = None
    features: tuple[str, ...] = ()
    """Ids and numbers of the contract to learn from; all but what names a person or an event where none is named."""
    bits: int = Field(default=12, ge=6, le=18)
    """Ids are hashed to 2**bits features."""
    window_events: int = Field(default=1_000, ge=50)
    table: Path | None = None
    """Where windows and events go; ``<table>_tags`` by default."""


class Recommend(_Section):
    """The recommender inside a byte budget. Off unless enabled, but in ``train_recommender.py``."""

    enabled: bool = False
    budget_bytes: int = Field(default=64 << 20, ge=1_024)
    """Weights, optimiser, index, names and pairs seen, together."""
    rows: int | None = Field(default=None, ge=2)
    """Users and items that may have embeddings at once; by default so many that each can have about 256 bytes."""
    code: Literal["fp32", "bf16", "int8"] = "fp32"
    """How weights are stored."""
    learning_rate: float = Field(default=0.05, gt=0)
    penalty: float = Field(default=0.02, ge=0)
    """L2, of the rows of each step."""
    negatives: int = Field(default=8, ge=1)
    """Items drawn against each one wanted."""
    admit_after: Literal[1, 2] = 2
    """An id has embeddings from its first or its second sighting on."""
    ttl_s: float | None = Field(default=None, gt=0)
    """Ids not seen for so long, in event time, are given up; never where it is absent."""
    half_life_s: float = Field(default=604_800.0, gt=0)
    """How long until a touch counts half when rows are scarce."""
    table: Path | None = None
    """Where scores go; ``<table>_recommender`` by default."""


class Clicks(_Section):
    """AdaptDHM, a click model for many domains. Off unless enabled, but in ``train_ctr.py``."""

    enabled: bool = False
    context: tuple[str, ...] = ()
    """Ids known before an item is chosen, by which an event is routed; the ids that are not the item's where none are named."""
    crosses: tuple[tuple[str, ...], ...] = ()
    """Context fields that routing also looks at together, as one more id; of few values together, such as segment and hour."""
    routing: Literal["lar", "reference", "none"] = "lar"
    control: bool = True
    """Whether the same network without routing (K = 1) learns beside it, to compare with."""
    learning_rate: float = Field(default=6e-3, gt=0)
    batch: int = Field(default=512, ge=1)
    """Events of a step."""
    rows: int = Field(default=1 << 15, ge=2)
    """Ids that may have an embedding at once."""
    negative_rate: float = Field(default=1.0, gt=0, le=1)
    """Share of the negatives that are learnt; predictions are corrected for it."""
    delay: Literal["wait", "now"] = "wait"
    """Learn an impression at its window's end, or at once as not clicked, with weights that make good for it."""
    capacity: int = Field(default=1 << 19, ge=1)
    """Impressions that may wait for their label."""
    window_events: int = Field(default=5_000, ge=100)
    """Scored events per metrics window."""
    table: Path | None = None
    """Where scores go; ``<table>_clicks`` by default."""


class Settings(BaseSettings):
    """Everything a job can be told. Relative paths are taken from the folder the job is started in."""

    model_config = SettingsConfigDict(
        env_prefix="HEADRACE_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    spark: Spark = Spark()
    kafka: Kafka = Kafka()
    stream: Stream = Stream()
    learner: Learner = Learner()
    scheduler: Scheduler = Scheduler()
    tags: Tags = Tags()
    recommend: Recommend = Recommend()
    clicks: Clicks = Clicks()
    seed: int = 0

    @field_validator("kafka", mode="after")
    @classmethod
    def _sasl_is_whole(cls, kafka: Kafka) -> Kafka:
        if kafka.security_protocol.startswith("SASL") and (
            kafka.sasl_mechanism is None or kafka.sasl_username is None
        ):
            raise ValueError("SASL needs kafka.sasl_mechanism and kafka.sasl_username")
        return kafka

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment overrides the file, whose values arrive as the init arguments."""
        return env_settings, init_settings


def read_settings(path: Path | None = None) -> Settings:
    """Read ``path`` (TOML), let the environment override it, and check the result.

    Raises:
        BadSettings: the file is missing, is not TOML, holds a secret, or a value does not fit; every misfit is named.
    """
    written: dict[str, Any] = {}
    if path is not None:
        try:
            written = tomllib.loads(path.read_text())
        except FileNotFoundError:
            raise BadSettings(f"no settings file at '{path}'; run `headrace setup` to write one") from None
        except tomllib.TOMLDecodeError as error:
            raise BadSettings(f"'{path}' is not TOML: {error}") from None
        if "sasl_password" in cast("dict[str, Any]", written.get("kafka", {})):
            raise BadSettings(
                f"'{path}' holds kafka.sasl_password; set HEADRACE_KAFKA__SASL_PASSWORD or kafka.sasl_password_file instead"
            )
    try:
        return Settings(**written)
    except ValidationError as error:
        misfits = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}"
            + ("" if "password" in str(e["loc"]) else f" (got {e['input']!r})")
            for e in error.errors()
        )
        raise BadSettings(f"settings from '{path or 'the environment'}' do not fit: {misfits}") from None
