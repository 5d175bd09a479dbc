"""The compose file and the Dockerfile are whole, and name what the tests run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from featurestore.settings import Settings, load
from streaming.processes import STOP_TIMEOUT_S
from tests.services.kafka import SETTINGS as BROKER
from tests.services.postgres import MAJOR

ROOT = Path(__file__).parents[2]
INSTRUCTIONS = {
    "FROM", "RUN", "COPY", "WORKDIR", "USER", "ENV", "EXPOSE", "HEALTHCHECK", "CMD",
}  # fmt: skip


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


@pytest.fixture(scope="module")
def dockerfile() -> list[tuple[str, str]]:
    """Its instructions, in order."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    joined = text.replace("\\\n", " ")
    return [(line.split()[0], line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]


def ours(services: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: one for name, one in services.items() if one["image"] == "featurestore"}


def commands_of(service: dict[str, Any]) -> list[list[str]]:
    """The `featurestore` command lines that a service runs."""
    given = service["command"]
    text = given[2] if given[:2] == ["sh", "-c"] else shlex.join(given)
    return [shlex.split(line) for line in re.findall(r"featurestore [^&|;\n]+", text)]


def test_every_service_is_there_with_a_health_check_or_an_end(services: dict[str, dict[str, Any]]):
    assert services.keys() == {"postgres", "kafka", "migrate", "api", "streaming"}
    for name, service in services.items():
        if name == "migrate":
            assert service["restart"] == "on-failure" and service["healthcheck"] == {"disable": True}
        else:
            assert service["restart"] == "unless-stopped" and service["healthcheck"]["test"][0] == "CMD"


def test_whoever_depends_waits_for_health_or_for_the_end(services: dict[str, dict[str, Any]]):
    for service in services.values():
        for name, how in service.get("depends_on", {}).items():
            ends = name == "migrate"
            assert how == {"condition": f"service_{'completed_successfully' if ends else 'healthy'}"}, name
            assert name in services
    # Else `up --wait` takes a migration that has ended for a failure.
    assert "migrate" in services["api"]["depends_on"]
    assert services["streaming"]["depends_on"].keys() == {"migrate", "kafka"}


def test_what_must_outlive_a_container_is_in_a_volume(
    compose: dict[str, Any], services: dict[str, dict[str, Any]]
):
    used = {volume.partition(":")[0] for one in services.values() for volume in one["volumes"]}
    assert used == compose["volumes"].keys()
    assert services["postgres"]["volumes"] == ["postgres:/var/lib/postgresql/data"]
    assert services["kafka"]["volumes"] == [f"kafka:{services['kafka']['environment']['KAFKA_LOG_DIRS']}"]


def test_one_image_is_all_that_is_ours_and_the_others_name_their_versions(
    services: dict[str, dict[str, Any]],
):
    assert all(one["build"] == "." for one in ours(services).values())
    for name, one in services.items():
        if name not in ours(services):
            assert re.fullmatch(r"[\w/]+:\d+(\.\d+)*", one["image"]) and "build" not in one


def test_postgresql_is_of_the_version_that_the_tests_run(services: dict[str, dict[str, Any]]):
    assert services["postgres"]["image"] == f"postgres:{MAJOR}"


def test_kafka_is_the_broker_that_the_tests_run_and_is_advertised_where_workers_look(
    services: dict[str, dict[str, Any]],
):
    kafka, jars = services["kafka"], (ROOT / "tests/services/kafka.jars").read_text()
    version = re.search(r"^org\.apache\.kafka:kafka_2\.13:([\d.]+) ", jars, re.MULTILINE)
    assert version is not None and kafka["image"] == f"apache/kafka:{version[1]}"
    environment = {name: str(value) for name, value in kafka["environment"].items()}
    tested = dict(line.split("=", 1) for line in BROKER.split() if "=" in line)
    for name in ("process.roles", "node.id", "controller.listener.names", "offsets.topic.replication.factor",
                 "transaction.state.log.replication.factor", "transaction.state.log.min.isr"):  # fmt: skip
        assert environment[f"KAFKA_{name.upper().replace('.', '_')}"] == tested[name], name
    listeners = dict(one.split("://") for one in environment["KAFKA_ADVERTISED_LISTENERS"].split(","))
    workers = services["streaming"]["environment"]["FEATURESTORE_STREAMING__BOOTSTRAP_SERVERS"]
    assert listeners["PLAINTEXT"] == workers
    port = listeners["HOST"].rpartition(":")[2]
    assert kafka["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert {one.partition("://")[0] for one in environment["KAFKA_LISTENERS"].split(",")} == {
        one.partition(":")[0] for one in environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")
    }


def test_the_stream_workers_get_sigterm_and_the_health_of_each_is_asked(services: dict[str, dict[str, Any]]):
    streaming = services["streaming"]
    command = streaming["command"]
    # No shell between: SIGTERM reaches the command, which passes it on and waits.
    assert command[:2] == ["featurestore", "stream"] and "--wait" in command and streaming["init"] is True
    assert float(streaming["stop_grace_period"].rstrip("s")) > STOP_TIMEOUT_S
    workers = int(command[command.index("--workers") + 1])
    first = streaming["environment"]["FEATURESTORE_STREAMING__METRICS_PORT"]
    asked = streaming["healthcheck"]["test"]
    assert asked[:3] == ["CMD", "python", "-c"] and "/health" in asked[3]
    assert f"({', '.join(str(first + number) for number in range(workers))})" in asked[3]


def test_the_settings_of_our_services_are_settings_and_name_the_services(
    services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    database = services["postgres"]["environment"]
    for service in ours(services).values():
        environment = service["environment"]
        assert environment["PGPASSWORD"] == database["POSTGRES_PASSWORD"]
        with monkeypatch.context() as inside:
            for name, value in environment.items():
                inside.setenv(name, str(value))
            found: Settings = load(tmp_path)
        assert found.streaming.bootstrap_servers == "kafka:9092"
        assert found.store.url == (
            f"postgresql://{database['POSTGRES_USER']}@postgres:5432/{database['POSTGRES_DB']}"
        )


def test_the_commands_of_our_services_are_commands(services: dict[str, dict[str, Any]]):
    for service in ours(services).values():
        for program, *arguments in commands_of(service):
            assert program == "featurestore"
            options = [one for one in arguments[1:] if one.startswith("--")]
            done = subprocess.run(
                [sys.executable, "-c", "from featurestore.cli import main; main()", arguments[0], "--help"],
                env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            assert all(option in done.stdout for option in options)


def test_the_service_listens_where_its_port_is_published_and_its_health_is_asked(
    services: dict[str, dict[str, Any]], dockerfile: list[tuple[str, str]]
):
    api = services["api"]
    port = api["command"][api["command"].index("--port") + 1]
    assert api["ports"] == [f"127.0.0.1:{port}:{port}"] and ("EXPOSE", port) in dockerfile
    asked = f"http://127.0.0.1:{port}/ready"
    assert asked in api["healthcheck"]["test"][3]
    assert any(name == "HEALTHCHECK" and asked in text for name, text in dockerfile)


def test_the_image_runs_as_nobody_special_with_exact_versions(dockerfile: list[tuple[str, str]]):
    names = [name for name, _ in dockerfile]
    assert set(names) <= INSTRUCTIONS and names[0] == "FROM" and names.count("FROM") == 1
    minor = re.fullmatch(r"python:3\.(\d+)-slim", dockerfile[0][1])
    assert minor is not None
    assert f">=3.{minor[1]}" in (ROOT / "pyproject.toml").read_text()
    users = [text for name, text in dockerfile if name == "USER"]
    assert users == ["featurestore"] and "--uid 10001" in dockerfile[1][1]
    # What needs root comes before, what runs comes after.
    assert names.index("USER") < names.index("CMD")
    assert any("--require-hashes -r requirements-serve.lock" in text for _, text in dockerfile)
    lock = (ROOT / "requirements-serve.lock").read_text()
    assert all(
        re.search(rf"^{name}==", lock, re.MULTILINE) for name in ("psycopg", "psycopg-binary", "kafka-python")
    )


def test_the_image_is_made_of_files_that_are_there_and_sent_to_the_builder(
    dockerfile: list[tuple[str, str]],
):
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for _, text in [one for one in dockerfile if one[0] == "COPY"]:
        *sources, _ = text.split()
        for source in sources:
            assert (ROOT / source).exists() and source in sent, source
