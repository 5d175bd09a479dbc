"""Settings: ``featurestore.toml`` in the project's directory, overridden by ``FEATURESTORE_*`` in the
environment.

The file is optional. A nested setting is written with two underscores: ``FEATURESTORE_SERVING__PORT=8080``.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableError

from featurestore.errors import SettingsError

FILE_NAME = "featurestore.toml"


class StoreSettings(BaseModel):
    """Where the store is."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(
        ".featurestore/store.db",
        min_length=1,
        description="a path, relative to the project, or a database URL",
        repr=False,
    )
    writer_memory_mb: int = Field(
        256,
        ge=0,
        description="what a writing process keeps of timelines, not to read them again; 0 = nothing",
    )

    @property
    def shown(self) -> str:
        """``url`` as it may be printed: without password and options."""
        if "://" not in self.url or self.url.startswith("sqlite:"):
            return self.url
        parts = urlsplit(self.url)
        user, _, host = parts.netloc.rpartition("@")
        named = f"{user.partition(':')[0]}@{host}" if user else host
        return f"{parts.scheme}://{named}{parts.path}"


class EngineSettings(BaseModel):
    """How training sets and backfills compute."""

    model_config = ConfigDict(extra="forbid")

    threads: int = Field(0, ge=0, le=256, description="threads of the kernel; 0 = one a core")


class ServingSettings(BaseModel):
    """The HTTP service."""

    model_config = ConfigDict(extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    max_entities: int = Field(1_000, ge=1, description="entities a request may ask for")
    max_features: int = Field(1_000, ge=1, description="features a request may ask for")
    max_body_bytes: int = Field(10_000_000, ge=1, description="longest request body")
    body_timeout_s: float = Field(30.0, gt=0, description="longest time a request body may take to arrive")
    read_token: SecretStr | None = Field(None, description="bearer token for reading; absent = open")
    push_token: SecretStr | None = Field(
        None, description="bearer token for pushing; absent = the reading one"
    )
    log_requests: bool = False


class RequestLogSettings(BaseModel):
    """The log of what the HTTP service has answered, for ``featurestore verify``."""

    model_config = ConfigDict(extra="forbid")

    directory: str = Field(
        ".featurestore/requests", min_length=1, description="where its files are, relative to the project"
    )
    sample: float = Field(
        0.0, ge=0, le=1, description="the share of requests that is logged, chosen by their ids; 0 = none"
    )
    rows_per_file: int = Field(100_000, ge=1, description="values that make a file")
    seconds_per_file: float = Field(60.0, gt=0, description="longest time that a value waits for its file")
    queue_rows: int = Field(
        200_000,
        ge=1,
        description="most values that wait; what there is no room for is dropped, and counted",
    )
    queue_bytes: int = Field(64_000_000, ge=1, description="most bytes of answers that wait")


class StreamingSettings(BaseModel):
    """Workers that consume topics."""

    model_config = ConfigDict(extra="forbid")

    bootstrap_servers: str = Field("localhost:9092", min_length=1, description="brokers, host:port,...")
    group: str = Field("featurestore", min_length=1, description="the consumer group of this store's workers")
    instance: str | None = Field(
        None, min_length=1, description="this host's name in the group; absent = its hostname"
    )
    client: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="further options of kafka-python's clients, as security_protocol"
    )
    batch_messages: int = Field(5_000, ge=1, description="most messages of a commit")
    poll_timeout_s: float = Field(0.5, gt=0, description="longest wait for messages")
    session_timeout_s: float = Field(
        45.0, gt=0, description="a worker that is silent for so long loses its partitions"
    )
    compact: bool = Field(True, description="fold small rows while workers run")
    max_value_bytes: int = Field(1_000_000, ge=1, description="longer values are dead letters")
    schema_registry: str | None = Field(
        None,
        pattern=r"^https?://[^/?#@\s]+(/[^?#\s]*)?$",
        description="the URL of the registry of Avro's schemas",
    )
    schema_registry_user: str | None = Field(None, min_length=1, description="whom the registry knows us as")
    schema_registry_password: SecretStr | None = Field(None, description="the password of that user")
    metrics_host: str = Field("127.0.0.1", min_length=1, description="the address of /metrics")
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="/metrics of the first worker; the others count up from it"
    )


class Settings(BaseSettings):
    """All settings of a project."""

    model_config = SettingsConfigDict(env_prefix="FEATURESTORE_", env_nested_delimiter="__", extra="forbid")

    features: str = Field("features.py", description="the declarations' file, relative to the project")
    store: StoreSettings = StoreSettings()
    engine: EngineSettings = EngineSettings()
    serving: ServingSettings = ServingSettings()
    request_log: RequestLogSettings = RequestLogSettings()
    streaming: StreamingSettings = StreamingSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # The environment beats the file, whose values are handed in as arguments.
        return env_settings, init_settings


def load(root: Path) -> Settings:
    """The settings of the project in ``root``."""
    path = root / FILE_NAME
    values: dict[str, Any] = {}
    if path.is_file():
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"{path.name} can't be read: {error}", hint="it is TOML: key = value"
            ) from None
    try:
        return Settings(**values)
    except UnreadableError as error:
        raise SettingsError(
            f"a FEATURESTORE_* variable can't be read: {error}",
            hint="one setting of a section is written with two underscores: FEATURESTORE_SERVING__PORT=8080",
        ) from None
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(str(part) for part in problem["loc"])
        raise SettingsError(
            f'setting "{name}": {problem["msg"].lower()}',
            hint=f"settings come from {FILE_NAME} and from FEATURESTORE_* in the environment",
        ) from None
