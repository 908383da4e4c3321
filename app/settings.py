"""Settings, read once from the environment (prefix `FLOWS_`) and `.env`."""

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from limits import parse as parse_rate
from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PLACEHOLDERS = ("changeme", "change-me", "change_me", "placeholder", "<", "example")


class Group(BaseSettings):
    """Settings with a prefix of their own; one that cannot be is named (SystemExit), not shown."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            prefix = self.model_config.get("env_prefix", "")
            raise SystemExit(
                "\n".join(
                    f"{prefix}{'_'.join(map(str, fault['loc']))}".upper()
                    + f": {fault['msg'].removeprefix('Value error, ')}"
                    for fault in error.errors(include_input=False)
                )
            ) from None


class DatabaseSettings(Group):
    """`FLOWS_DATABASE_*`: how the gateway and its commands reach PostgreSQL."""

    model_config = SettingsConfigDict(env_prefix="FLOWS_DATABASE_")

    url: SecretStr | None = Field(
        None, description="The gateway's own login (role flows_gateway), a libpq URL."
    )
    admin_url: SecretStr | None = Field(
        None, description="An administrator's login, for migrations and `flows` commands only."
    )
    pool_min: PositiveInt = Field(1, description="Connections kept open by one gateway process.")
    pool_max: PositiveInt = Field(10, description="Connections one gateway process opens at most.")
    pool_timeout: PositiveFloat = Field(
        5.0, description="Seconds a request waits for a connection before it gets a 503."
    )

    @field_validator("url", "admin_url")
    @classmethod
    def refuse_placeholders(cls, url: SecretStr | None) -> SecretStr | None:
        """Refuse a URL that was copied from documentation without its password being replaced."""
        if url and any(word in url.get_secret_value().lower() for word in PLACEHOLDERS):
            raise ValueError("holds a placeholder; put the real credentials in")
        return url


class PostgrestSettings(Group):
    """`FLOWS_POSTGREST_*`: the PostgREST behind `/rest/v1`."""

    model_config = SettingsConfigDict(env_prefix="FLOWS_POSTGREST_")

    url: str = Field("http://127.0.0.1:3000", description="Where PostgREST listens.")
    database_url: SecretStr | None = Field(
        None,
        description="PostgREST's own login (role authenticator); only `flows db migrate` reads it, "
        "to give that role its password.",
    )


class RestSettings(Group):
    """`FLOWS_REST_*`: how much a request may hold and how long each step may take."""

    model_config = SettingsConfigDict(env_prefix="FLOWS_REST_")

    max_body_bytes: PositiveInt = Field(64 * 2**20, description="Longest request body.")
    max_url_bytes: PositiveInt = Field(16 * 2**10, description="Longest path with its query.")
    max_header_bytes: PositiveInt = Field(32 * 2**10, description="All header lines together.")
    head_seconds: PositiveFloat = Field(10.0, description="Until a request's headers are there.")
    body_seconds: PositiveFloat = Field(15.0, description="Until the next piece of a body comes.")
    send_seconds: PositiveFloat = Field(
        30.0, description="Until a client takes the next piece of an answer."
    )
    connections: PositiveInt = Field(100, description="Connections to PostgREST at most.")
    connect_seconds: PositiveFloat = Field(
        3.0, description="Until a connection to PostgREST is free and made; then 503."
    )
    answer_seconds: PositiveFloat = Field(
        60.0, description="Until PostgREST sends the next piece of an answer; then 504."
    )


class LimitsSettings(Group):
    """`FLOWS_LIMITS_*`: requests per client and per ESCO, as `<count>/<second|minute|hour|day>`."""

    model_config = SettingsConfigDict(env_prefix="FLOWS_LIMITS_")

    client: str = Field("100/second", description="Requests of one client.")
    esco: str = Field("200/second", description="Requests of all clients of one ESCO.")
    concurrent: PositiveInt = Field(
        6,
        description="Requests of one ESCO at the database at a time, in each process; keep it "
        "below the pools (PostgREST's db-pool, FLOWS_DATABASE_POOL_MAX), so that others find room.",
    )
    turn_seconds: PositiveFloat = Field(
        3.0, description="Seconds a request waits for its turn among them before it gets a 429."
    )
    url: SecretStr | None = Field(
        None,
        description="redis://… where several gateways share one count; left out, each process "
        "counts for itself.",
    )
    refusal_seconds: NonNegativeFloat = Field(
        1.0, description="A 429 is held back this long, so that a flood slows itself down."
    )

    @field_validator("client", "esco")
    @classmethod
    def check_rate(cls, rate: str) -> str:
        """Refuse what the limiter could not read."""
        parse_rate(rate)
        return rate

    @field_validator("url")
    @classmethod
    def check_scheme(cls, url: SecretStr | None) -> SecretStr | None:
        """Accept a Redis URL (rediss: over TLS) and nothing else."""
        if url and not url.get_secret_value().startswith(("redis://", "rediss://")):
            raise ValueError("must begin with redis:// or rediss://")
        return url


class KeysSettings(Group):
    """`FLOWS_KEYS_*`: where the private keys that sign tokens are."""

    model_config = SettingsConfigDict(env_prefix="FLOWS_KEYS_")

    folder: Path | None = Field(
        None, description="Folder of the PEM files; left out, `keys` in FLOWS_HOME."
    )
    signing_key: SecretStr | None = Field(
        None, description="One private key in PEM, instead of files: for secret stores."
    )


class TokenSettings(Group):
    """`FLOWS_TOKENS_*`: how long tokens may last."""

    model_config = SettingsConfigDict(env_prefix="FLOWS_TOKENS_")

    max_lifetime_seconds: PositiveInt = Field(
        86_400, description="Longest life of an access token, whatever its client is allowed."
    )
    max_days: PositiveInt = Field(
        400, description="Longest life of a token that `flows token` issues."
    )


class BackupSettings(Group):
    """`FLOWS_BACKUP_*`: where backups and archived WAL are, and how far back recovery reaches."""

    model_config = SettingsConfigDict(env_prefix="FLOWS_BACKUP_")

    folder: Path | None = Field(
        None,
        description="Folder of base backups and archived WAL, best on another disk; with it "
        "`flows up` archives.",
    )
    keep_days: PositiveInt = Field(
        30, description="Days of which every moment can be recovered; `flows backup prune`."
    )
    oldest_hours: PositiveFloat = Field(
        26.0, description="Age of the newest backup at which `flows backup check` complains."
    )


class Settings(Group):
    """Everything a gateway process needs to know; `database`, `postgrest`, … are the groups."""

    model_config = SettingsConfigDict(env_prefix="FLOWS_")

    home: Path = Field(Path(".flows"), description="Folder of the embedded stack's state and keys.")
    host: str = Field("127.0.0.1", description="Address the gateway listens on.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        8000, description="Port the gateway listens on; 0 picks a free one."
    )
    public_url: str | None = Field(
        None, description="The gateway's address as its clients see it; also the tokens' issuer."
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Addresses of reverse proxies whose X-Forwarded-For is believed, by comma."
    )

    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins of browser apps that may call, by comma (https://app.example.org)."
    )
    metrics: Literal["token", "open", "off"] = Field(
        "token", description="Who reads /metrics: a token of role grafanareader, everybody, nobody."
    )
    access_log: bool = Field(True, description="Log one JSON line for each request.")
    drain_seconds: NonNegativeFloat = Field(
        0.0, description="After SIGTERM /ready says 503 this long before new requests are refused."
    )

    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    postgrest: PostgrestSettings = Field(default_factory=PostgrestSettings)
    keys: KeysSettings = Field(default_factory=KeysSettings)
    tokens: TokenSettings = Field(default_factory=TokenSettings)
    backup: BackupSettings = Field(default_factory=BackupSettings)
    rest: RestSettings = Field(default_factory=RestSettings)
    limits: LimitsSettings = Field(default_factory=LimitsSettings)

    @field_validator("cors_origins", mode="before")
    @classmethod
    def split_origins(cls, value: Any) -> Any:
        """Read `a, b` into origins; one that a browser would never send is refused."""
        if isinstance(value, str):
            value = tuple(part.strip() for part in value.split(",") if part.strip())
        for origin in value:
            if not re.fullmatch(r"https?://[^/*\s]+", origin):
                raise ValueError(f"{origin!r} is no origin; write one like https://app.example.org")
        return value

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def split_addresses(cls, value: Any) -> Any:
        """Read `a, b` into addresses; anything that is no IP address is refused."""
        if isinstance(value, str):
            value = tuple(part.strip() for part in value.split(",") if part.strip())
        return tuple(str(ip_address(address)) for address in value)

    @field_validator("public_url")
    @classmethod
    def without_slash(cls, url: str | None) -> str | None:
        """Drop a trailing slash, so that paths can be appended."""
        return url.rstrip("/") if url else None

    @property
    def base_url(self) -> str:
        """The gateway's address for its clients, without a trailing slash."""
        return self.public_url or f"http://{self.host}:{self.port}"

    @property
    def key_folder(self) -> Path:
        """The folder of the key files."""
        return self.keys.folder or self.home / "keys"

    @property
    def signing_key(self) -> str | None:
        """The key given by the environment."""
        key = self.keys.signing_key
        return key.get_secret_value() if key else None
