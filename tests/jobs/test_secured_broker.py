"""A broker that wants TLS and a password: the settings alone make producer, query, executors and dead letters reach it."""

from __future__ import annotations

import datetime
import ipaddress
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from pyspark.sql import SparkSession

from headrace.jobs.places import cache, fetch_jars, java
from headrace.jobs.settings import Kafka, Settings, Stream
from headrace.streaming import jars, kraft
from headrace.streaming.ad_feed import AdFeed
from headrace.streaming.broker import EmbeddedBroker
from headrace.streaming.source import create_topics

from .conftest import Pipeline

pytestmark = [pytest.mark.spark, pytest.mark.broker]

USER, PASSWORD = "headrace", 'a "quoted" \\ secret'
LISTENER = """
listeners=PLAINTEXT://{host}:{{port}},CONTROLLER://{host}:{{controller_port}},SECURED://{host}:{secured}
advertised.listeners=PLAINTEXT://{host}:{{port}},SECURED://{host}:{secured}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SECURED:SASL_SSL
listener.name.secured.ssl.keystore.type=PEM
listener.name.secured.ssl.keystore.location={keystore}
listener.name.secured.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.secured.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}="{password}";
listener.name.secured.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
"""
"""Lines that come later win. The plain listener stays, for the broker's own admin tool."""


class Secured(NamedTuple):
    """A broker's secured address, and the authority that signed its certificate."""

    bootstrap: str
    authority: Path


def certificates(folder: Path) -> tuple[Path, Path]:
    """A certificate for loopback with its key, and the authority that signed it, in PEM files."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("authority", "broker")
    ]
    found = []
    for at, name in enumerate(names):
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(names[0])
            .public_key(keys[at].public_key())
            .serial_number(at + 1)
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=at == 0, path_length=None), critical=True)
        )
        if at:
            address = x509.IPAddress(ipaddress.ip_address(kraft.HOST))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        found.append(builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    key = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    keystore, authority = folder / "broker.pem", folder / "authority.pem"
    keystore.write_bytes(key + found[1] + found[0])
    authority.write_bytes(found[0])
    return keystore, authority


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    fetch_jars()
    folder = tmp_path_factory.mktemp("secured")
    keystore, authority = certificates(folder)
    with socket.socket() as found:
        found.bind((kraft.HOST, 0))
        port = found.getsockname()[1]
    escaped = (
        PASSWORD.replace("\\", "\\\\").replace('"', '\\"').replace("\\", "\\\\")
    )  # in JAAS, in a properties file
    lines = LISTENER.format(host=kraft.HOST, secured=port, keystore=keystore, user=USER, password=escaped)
    classpath = jars.broker_classpath(cache())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kraft, "_SERVER", kraft._SERVER + lines)
        with EmbeddedBroker(folder / "data", classpath, java().path) as broker:
            tool = [str(java().path), "-cp", ":".join(map(str, classpath)), "kafka.admin.ConfigCommand"]
            account = ["--entity-type", "users", "--entity-name", USER, "--alter"]
            given = ["--add-config", f"SCRAM-SHA-512=[password={PASSWORD}]"]
            command = [*tool, "--bootstrap-server", broker.bootstrap, *account, *given]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            yield Secured(f"{kraft.HOST}:{port}", authority)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_a_pipeline_reaches_a_broker_that_wants_tls_and_a_password(
    spark: SparkSession, secured: Secured, tmp_path: Path, mechanism: str
) -> None:
    (tmp_path / "password").write_text(PASSWORD + "\n")
    kafka = Kafka(
        bootstrap=secured.bootstrap,
        security_protocol="SASL_SSL",
        sasl_mechanism=mechanism,  # type: ignore[arg-type]
        sasl_username=USER,
        sasl_password_file=tmp_path / "password",
        ssl_cafile=secured.authority,
    )
    topic = f"topic-{mechanism.lower()}"
    stream = Stream(topic=topic, table=tmp_path / "table", checkpoint=tmp_path / "checkpoint")
    create_topics(kafka.bootstrap, {topic: 2, stream.dead_letters: 1}, **kafka.client_options())
    job = Pipeline(spark, Settings(kafka=kafka, stream=stream))
    job.send(AdFeed(seed=1, n_users=100, broken_share=0.02, huge_bytes=600_000).messages(1_000))
    total = job.run().total
    assert total.balance == 0
    assert total.events == 1_020
    assert job.rows().num_rows == total.stored
    assert len(job.letters()) == total.dead + total.late > 0


TRY = """
import sys, warnings
warnings.simplefilter("ignore")  # kafka-python leaves sockets open that were refused
from headrace.jobs.settings import Kafka
from headrace.streaming.producer import Producer
kafka = Kafka.model_validate_json(sys.stdin.read())
Producer(kafka.bootstrap, topic="topic", timeout_s=3.0, **kafka.client_options())
"""


@pytest.mark.parametrize("wrong", [{"sasl_password": "guessed"}, {"security_protocol": "PLAINTEXT"}])
def test_who_may_not_in_is_told_what_to_look_at(secured: Secured, wrong: dict[str, str]) -> None:
    kafka = {
        "bootstrap": secured.bootstrap,
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "PLAIN",
        "sasl_username": USER,
        "sasl_password": "unlikely to be said by chance",
        "ssl_cafile": str(secured.authority),
        **wrong,
    }
    tried = subprocess.run(
        [sys.executable, "-c", TRY], input=json.dumps(kafka), capture_output=True, text=True, timeout=60
    )
    assert tried.returncode == 1
    said = tried.stderr.strip().splitlines()[-1]
    assert said.startswith(
        f"headrace.streaming.errors.BrokerUnreachable: no Kafka answers at {secured.bootstrap}"
    )
    assert said.endswith("check the address and the security settings")
    assert kafka["sasl_password"] not in tried.stderr
