"""Settings, read once from environment variables that start with `FLOWS_` and from `.env`."""

import json
import re
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args
from urllib.parse import urlsplit

from limits import parse as parse_rate
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

OWN_SCHEMAS = {"api", "flows", "gateway", "public", "information_schema"}
PLACEHOLDERS = ("changeme", "change-me", "change_me", "placeholder", "<", "example")


class Group(BaseSettings):
    """Base class of settings with a common prefix.

    An invalid setting is a SystemExit that names it but does not show its value, which may be
    secret.
    """

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True)

    # Field → its former variable, which is still read if the present one is not set.
    former_names: ClassVar[Mapping[str, str]] = {}

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SystemExit(
                "\n".join(
                    f"{self._variable(*fault['loc'])}: {fault['msg'].removeprefix('Value error, ')}"
                    for fault in error.errors(include_input=False)
                )
            ) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the environment, then `.env`, then files of secrets, then former names."""
        return init_settings, env_settings, dotenv_settings, _SecretFiles(cls), _FormerNames(cls)

    @classmethod
    def renamed(cls) -> dict[str, str]:
        """Return former → present name of each variable that is set under its former name."""
        return {
            former: cls._present_name(field)
            for field, former in cls.former_names.items()
            if former.lower() in _variables(cls)
        }

    @classmethod
    def secrets(cls) -> list[str]:
        """Return the fields that hold secrets: their variables may end in `_FILE`."""
        return [
            name
            for name, field in cls.model_fields.items()
            if SecretStr in _types(field.annotation)
        ]

    @classmethod
    def variable(cls, field: str) -> str:
        """Return the name of a field's variable."""
        return cls._present_name(field)

    @classmethod
    def _variable(cls, field: str | int, *path: str | int) -> str:
        """Return the variable that set a field: the former one if only that is set."""
        present = cls._present_name(field, *path)
        former = cls.former_names.get(str(field), present)
        known = _variables(cls)
        return former if former.lower() in known and present.lower() not in known else present

    @classmethod
    def _present_name(cls, *path: str | int) -> str:
        return (cls.model_config.get("env_prefix", "") + "_".join(map(str, path))).upper()


def _types(annotation: Any) -> tuple[Any, ...]:
    """Return the types that an annotation unites."""
    return get_args(annotation) or (annotation,)


def _variables(group: type[Group]) -> dict[str, str | None]:
    """Return the variables of `.env` and of the environment, names in lower case."""
    return {**DotEnvSettingsSource(group).env_vars, **EnvSettingsSource(group).env_vars}


class _FormerNames(PydanticBaseSettingsSource):
    """A settings source that reads the former variables of a group."""

    def __init__(self, group: type[Group]) -> None:
        super().__init__(group)
        self._group = group

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the value of a field's former variable, or None."""
        former = self._group.former_names.get(field_name, "")
        return _variables(self._group).get(former.lower()), field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the values by field."""
        values = {
            name: self.get_field_value(self._group.model_fields[name], name)[0]
            for name in self._group.former_names
        }
        return {name: value for name, value in values.items() if value is not None}


class _SecretFiles(PydanticBaseSettingsSource):
    """A settings source that reads a secret from the file that its variable with `_FILE` names.

    SystemExit names the variable if the file cannot be read, or if the secret is set as well.
    """

    def __init__(self, group: type[Group]) -> None:
        super().__init__(group)
        self._group = group

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the content of a secret's file without the line break at its end, or None."""
        variable, known = self._group.variable(field_name), _variables(self._group)
        path = known.get(f"{variable}_FILE".lower())
        if not path:
            return None, field_name, False
        if variable.lower() in known:
            raise SystemExit(f"set {variable} or {variable}_FILE, not both")
        try:
            text = Path(path).read_text()
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise SystemExit(f"{variable}_FILE: cannot read {path} ({reason})") from None
        return text.rstrip("\r\n"), field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the values by field."""
        fields = self._group.model_fields
        values = {
            name: self.get_field_value(fields[name], name)[0] for name in self._group.secrets()
        }
        return {name: value for name, value in values.items() if value is not None}


def _libpq_url(url: SecretStr | None) -> SecretStr | None:
    """Return the URL; ValueError without its text, which may be secret, if libpq refuses it."""
    if url:
        try:
            conninfo_to_dict(url.get_secret_value())
        except ProgrammingError:
            raise ValueError("is not a libpq URL like postgresql://user:…@host/flows") from None
    return url


def _words(text: str) -> list[str]:
    """Return the parts of a text that are separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _postgrest_urls(urls: str) -> str:
    """Return the URLs; ValueError if one has no scheme or no host."""
    for url in _words(urls) or [""]:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("is not a URL like http://postgrest:3000")
    return urls


class DatabaseSettings(Group):
    """`FLOWS_DATABASE_*`: connections of the gateway and its commands to PostgreSQL."""

    model_config = SettingsConfigDict(env_prefix="FLOWS_DATABASE_")

    url: SecretStr | None = Field(
        None, description="libpq URL with the gateway's login (role flows_gateway)."
    )
    admin_url: SecretStr | None = Field(
        None,
        description="libpq URL with an administrator's login; only migrations and `flows` commands "
        "use it.",
    )
    direct_url: SecretStr | None = Field(
        None,
        description="libpq URL with the gateway's login past a PgBouncer that FLOWS_DATABASE_URL "
        "leads to: for what listens, and for what a busy pool must not delay.",
    )
    prepared: bool = Field(
        True,
        description="Prepare statements on connections. Set it to false behind a PgBouncer in "
        "transaction mode before 1.21 or without max_prepared_statements.",
    )
    pool_min: PositiveInt = Field(
        1, description="Connections that each gateway process keeps open."
    )
    pool_max: PositiveInt = Field(
        10,
        description="Most connections that a gateway process opens for data. It opens others for "
        "/auth (FLOWS_DATABASE_TOKEN_POOL_MAX), two for /ready and /metrics, and one that follows "
        "keys and revocations.",
    )
    token_pool_max: PositiveInt = Field(
        4, description="Most connections that a gateway process opens for /auth."
    )
    pool_timeout: PositiveFloat = Field(
        5.0, description="Seconds that a request waits for a connection before it gets a 503."
    )

    @field_validator("url", "admin_url", "direct_url")
    @classmethod
    def refuse_placeholders(cls, url: SecretStr | None) -> SecretStr | None:
        """Refuse a URL that was copied from documentation without its password being replaced."""
        if url and any(word in url.get_secret_value().lower() for word in PLACEHOLDERS):
            raise ValueError("contains a placeholder; replace it by the real credentials")
        return _libpq_url(url)


class PostgrestSettings(Group):
    """`FLOWS_POSTGREST_*`: connections to PostgREST, which serves `/rest/v1`."""

    model_config = SettingsConfigDict(env_prefix="FLOWS_POSTGREST_")
    former_names = {
        "connections": "FLOWS_REST_CONNECTIONS",
        "connect_seconds": "FLOWS_REST_CONNECT_SECONDS",
        "answer_seconds": "FLOWS_REST_ANSWER_SECONDS",
    }

    url: str = Field(
        "http://127.0.0.1:3000",
        description="URL of PostgREST. Of several, separated by commas, each request goes to the "
        "least busy that serves.",
    )
    database_url: SecretStr | None = Field(
        None,
        description="libpq URL with PostgREST's login (role authenticator); only "
        "`flows db migrate` reads it, to set that role's password.",
    )
    connections: PositiveInt = Field(
        100, description="Most connections to each PostgREST that a gateway process opens."
    )
    pool: PositiveInt = Field(
        10,
        description="Connections that each PostgREST opens to the database (its db-pool). An ESCO "
        "holds at most twice as many as it leaves to others.",
    )
    connect_seconds: PositiveFloat = Field(
        3.0,
        description="Seconds that a request waits for a connection to PostgREST before it gets a "
        "503.",
    )
    at_root: bool = Field(
        False,
        description="Answer /{relation} and /rpc/{function} at the root as below /rest/v1, for "
        "programs whose base URL has no /rest/v1.",
    )
    schemas: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Further schemas that Accept-Profile and Content-Profile may name, separated "
        "by commas. `flows db migrate` exposes them, and refuses one with a table without row "
        "level security, or with a view that neither reads as its caller nor is a barrier.",
    )
    answer_seconds: PositiveFloat = Field(
        60.0,
        description="Seconds that PostgREST may take for the next piece of a response before the "
        "request gets a 504.",
    )

    max_rows: PositiveInt = Field(
        50_000,
        description="Most rows of a response of /rest/v1, which PostgREST holds in memory (3 bytes "
        "for one of the response); beyond it, 422.",
    )

    @field_validator("schemas", mode="before")
    @classmethod
    def split_schemas(cls, value: Any) -> Any:
        """Split `a, b` into names; refuse those that need quotes, and the gateway's own."""
        if isinstance(value, str):
            value = tuple(_words(value))
        for name in value:
            own = name in OWN_SCHEMAS or name.startswith("pg_")
            if own or not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", name):
                raise ValueError(f"{name!r} is not the name of a schema of yours")
        return value

    @field_validator("url")
    @classmethod
    def check_urls(cls, urls: str) -> str:
        """Refuse a URL without a scheme or a host."""
        return _postgrest_urls(urls)

    @property
    def urls(self) -> list[str]:
        """The URLs of all PostgRESTs."""
        return _words(self.url)

    @field_validator("database_url")
    @classmethod
    def check_database_url(cls, url: SecretStr | None) -> SecretStr | None:
        """Refuse a text that libpq cannot parse."""
        return _libpq_url(url)


class ReplicaSettings(Group):
    """`FLOWS_REPLICA_*`: a streaming replica that answers reads."""

    model_config = SettingsConfigDict(env_prefix="FLOWS_REPLICA_")

    database_url: SecretStr | None = Field(
        None,
        description="libpq URL of a streaming replica with the gateway's login; reads of /v1 go "
        "there while it is near enough.",
    )
    postgrest_url: str | None = Field(
        None,
        description="URL of a PostgREST on the replica (PGRST_DB_CHANNEL_ENABLED=false), or of "
        "several, separated by commas; GET and HEAD of /rest/v1 go there.",
    )
    max_lag_seconds: PositiveFloat = Field(
        5.0,
        description="Seconds that the replica may be behind; beyond it, reads go to the primary.",
    )

    @field_validator("database_url")
    @classmethod
    def check_database_url(cls, url: SecretStr | None) -> SecretStr | None:
        """Refuse a text that libpq cannot parse."""
        return _libpq_url(url)

    @field_validator("postgrest_url")
    @classmethod
    def check_urls(cls, urls: str | None) -> str | None:
        """Refuse a URL without a scheme or a host."""
        return urls and _postgrest_urls(urls)

    @model_validator(mode="after")
    def check_both(self) -> Self:
        """Refuse a PostgREST on a replica whose lag nobody measures."""
        if self.postgrest_url and not self.database_url:
            raise ValueError("FLOWS_REPLICA_POSTGREST_URL needs FLOWS_REPLICA_DATABASE_URL")
        return self

    @property
    def urls(self) -> list[str]:
        """The URLs of the PostgRESTs on the replica."""
        return _words(self.postgrest_url or "")


class HttpSettings(Group):
    """`FLOWS_HTTP_*`: limits on the size and the duration of requests to all routes."""

    model_config = SettingsConfigDict(env_prefix="FLOWS_HTTP_")
    former_names = {
        "max_body_bytes": "FLOWS_REST_MAX_BODY_BYTES",
        "max_url_bytes": "FLOWS_REST_MAX_URL_BYTES",
        "max_header_bytes": "FLOWS_REST_MAX_HEADER_BYTES",
        "head_seconds": "FLOWS_REST_HEAD_SECONDS",
        "body_seconds": "FLOWS_REST_BODY_SECONDS",
        "send_seconds": "FLOWS_REST_SEND_SECONDS",
    }

    max_body_bytes: PositiveInt = Field(
        64 * 2**20, description="Greatest size of a request's body in bytes; beyond it, 413."
    )
    max_url_bytes: PositiveInt = Field(
        16 * 2**10, description="Greatest size of path and query in bytes; beyond it, 414."
    )
    max_header_bytes: PositiveInt = Field(
        32 * 2**10, description="Greatest size of all headers together in bytes; beyond it, 431."
    )
    head_seconds: PositiveFloat = Field(
        10.0, description="Seconds that a client may take to send the head of a request."
    )
    body_seconds: PositiveFloat = Field(
        15.0,
        description="Seconds that a client may take for the next piece of a body before it gets a "
        "408.",
    )
    send_seconds: PositiveFloat = Field(
        30.0,
        description="Seconds that a client may take to accept the next piece of a response before "
        "its connection is closed.",
    )
    min_bytes_per_second: NonNegativeInt = Field(
        16 * 2**10,
        description="Least rate at which a client must send a body or accept a response, in bytes "
        "a second; below it, 408 or a closed connection.",
    )
    rate_seconds: PositiveFloat = Field(
        10.0,
        description="Seconds of waiting for the client over which that rate is measured.",
    )


class LimitsSettings(Group):
    """`FLOWS_LIMITS_*`: rate limits, as `<count>/<second|minute|hour|day>`, and concurrency."""

    model_config = SettingsConfigDict(env_prefix="FLOWS_LIMITS_")

    client: str = Field("100/second", description="Rate limit of each client.")
    esco: str = Field("200/second", description="Rate limit of all clients of an ESCO together.")
    concurrent: PositiveInt = Field(
        6,
        description="Requests of one ESCO that a gateway runs at a time, from the first byte of "
        "a body to the last byte of the response; its residents run half of them at most. Keep it "
        "below the pool sizes (PostgREST's db-pool, FLOWS_DATABASE_POOL_MAX), so that connections "
        "remain for others.",
    )
    sustained: PositiveInt = Field(
        2,
        description="Of these, how many an ESCO may keep running: when more have run for 4 seconds "
        "in sum, no more run at a time; half of the database's cores leave others the rest. While "
        "others ask it is 2 seconds, of which one long request (from 30 ms on) after the other "
        "uses half, and after each three times as much time passes as it took, or as much if no "
        "other waits.",
    )
    waiting: NonNegativeInt = Field(
        50,
        description="Requests of one ESCO that wait for their turn beyond that; the next gets a "
        "429.",
    )
    turn_seconds: PositiveFloat = Field(
        3.0,
        description="Seconds that a request beyond that waits for its turn before it gets a 429.",
    )
    identities: PositiveInt = Field(
        1000,
        description="Most clients of one ESCO, and most members and apps, disabled ones included: "
        "each gateway process knows all that are disabled. The next gets a 409.",
    )
    residents: PositiveInt = Field(
        50_000,
        description="Most residents of one ESCO, beside its other members; former and disabled "
        "ones included. The next gets a 409.",
    )
    url: SecretStr | None = Field(
        None,
        description="URL of a Redis (redis://…) in which gateways count together; without it, each "
        "counts for itself, with all its workers.",
    )
    refusal_seconds: NonNegativeFloat = Field(
        1.0, description="Seconds by which a 429 is delayed, so that a flood slows itself down."
    )

    @field_validator("client", "esco")
    @classmethod
    def check_rate(cls, rate: str) -> str:
        """Refuse a rate that the limiter cannot parse."""
        parse_rate(rate)
        return rate

    @field_validator("url")
    @classmethod
    def check_scheme(cls, url: SecretStr | None) -> SecretStr | None:
        """Accept a Redis URL (rediss: over TLS) and nothing else."""
        if url and not url.get_secret_value().startswith(("redis://", "rediss://")):
            raise ValueError("must begin with redis:// or rediss://")
        return url


class ImportSettings(Group):
    """`FLOWS_IMPORTS_*`: imports of files by `POST /v1/imports`, in processes of their own."""

    model_config = SettingsConfigDict(env_prefix="FLOWS_IMPORTS_")

    max_file_bytes: PositiveInt = Field(
        64 * 2**20,
        description="Greatest size of a file in bytes; beyond it, 413. Files wait in the folder of "
        "temporary files (TMPDIR).",
    )
    running: PositiveInt = Field(
        2,
        description="Imports that a gateway process runs at a time, each with a connection to the "
        "database; of an ESCO only one.",
    )
    waiting_of_esco: PositiveInt = Field(
        4, description="Imports of one ESCO that wait for their turn; the next gets a 429."
    )
    waiting: PositiveInt = Field(
        32, description="Imports of all ESCOs together that wait; the next gets a 503."
    )
    seconds: PositiveFloat = Field(
        900.0, description="Seconds that an import may take before it fails."
    )


class KeysSettings(Group):
    """`FLOWS_KEYS_*`: location of the private keys that sign tokens."""

    model_config = SettingsConfigDict(env_prefix="FLOWS_KEYS_")

    folder: Path | None = Field(
        None, description="Folder of the PEM files; by default `keys` in FLOWS_HOME."
    )
    signing_key: SecretStr | None = Field(
        None, description="A private key in PEM, from a secret store, used instead of files."
    )


class TokenSettings(Group):
    """`FLOWS_TOKENS_*`: limits on the lifetime of tokens."""

    model_config = SettingsConfigDict(env_prefix="FLOWS_TOKENS_")

    max_lifetime_seconds: PositiveInt = Field(
        86_400, description="Longest lifetime of an access token in seconds, for any client."
    )
    max_days: PositiveInt = Field(
        400, description="Longest lifetime of a token issued by `flows token`, in days."
    )


class IssuerSettings(Group):
    """`FLOWS_ISSUERS_*`: access to the OpenID providers at which people sign in."""

    model_config = SettingsConfigDict(env_prefix="FLOWS_ISSUERS_")

    seconds: PositiveFloat = Field(
        3.0, description="Seconds that an issuer may take for its discovery document or its keys."
    )
    private_networks: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Networks of issuers that are not on the public internet, as CIDR, separated "
        "by commas (10.1.2.0/24). Without them the gateway connects to public addresses by https "
        "alone; in them, http is allowed too.",
    )
    hmac_secrets: Annotated[dict[str, SecretStr], NoDecode] = Field(
        {},
        description="Secrets of Supabase projects that sign by HS256, as a JSON object of name and "
        "secret; `flows issuer add --secret` refers to the name.",
    )

    @field_validator("private_networks", mode="before")
    @classmethod
    def split_networks(cls, value: Any) -> Any:
        """Split `a, b` into networks; refuse anything else."""
        if isinstance(value, str):
            value = tuple(_words(value))
        return tuple(str(ip_network(network)) for network in value)

    @field_validator("hmac_secrets", mode="before")
    @classmethod
    def read_secrets(cls, value: Any) -> Any:
        """Read a JSON object of secrets; refuse one that is short enough to be guessed."""
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                raise ValueError("is not a JSON object") from None
        if not isinstance(value, dict):
            raise ValueError("is not a JSON object")
        for secret in value.values():
            text = secret.get_secret_value() if isinstance(secret, SecretStr) else str(secret)
            if len(text) < 32:
                raise ValueError("a secret has fewer than 32 characters")
        return value


class DocsSettings(Group):
    """`FLOWS_DOCS_*`: the OpenID provider at which people sign in to try requests on /docs."""

    model_config = SettingsConfigDict(env_prefix="FLOWS_DOCS_")

    issuer: str | None = Field(
        None,
        description="URL of a trusted issuer whose endpoints are on its own origin; with it set, "
        "the other two are needed.",
    )
    client_id: str | None = Field(
        None,
        description="Id of a public client at the issuer, with the redirect URI /docs of the "
        "gateway's URL.",
    )
    app: str | None = Field(
        None, description="Id (fla_…) of an app with the gateway's URL as an origin."
    )

    @field_validator("issuer")
    @classmethod
    def check_issuer(cls, issuer: str | None) -> str | None:
        """Refuse what a policy cannot name, as it allows the page to ask the issuer."""
        if issuer and not re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+(/[^\s?#;,]*)?", issuer):
            raise ValueError("is not a URL like https://login.example.org/realms/energy")
        return issuer

    @property
    def origin(self) -> str:
        """The origin of the issuer."""
        parts = urlsplit(self.issuer or "")
        return f"{parts.scheme}://{parts.netloc}"

    @model_validator(mode="after")
    def check_whole(self) -> "DocsSettings":
        """Refuse some of the three without the others."""
        if any((self.issuer, self.client_id, self.app)) and not all(
            (self.issuer, self.client_id, self.app)
        ):
            raise ValueError("set FLOWS_DOCS_ISSUER, FLOWS_DOCS_CLIENT_ID and FLOWS_DOCS_APP")
        return self


class BackupSettings(Group):
    """`FLOWS_BACKUP_*`: location and age of backups and archived WAL."""

    model_config = SettingsConfigDict(env_prefix="FLOWS_BACKUP_")

    folder: Path | None = Field(
        None,
        description="Folder of base backups and archived WAL, preferably on another disk; if set, "
        "`flows up` archives WAL.",
    )
    keep_days: PositiveInt = Field(
        30, description="Days for which any time stays recoverable after `flows backup prune`."
    )
    oldest_hours: PositiveFloat = Field(
        26.0, description="Hours after which `flows backup check` reports the newest backup as old."
    )
    full_hours: PositiveFloat = Field(
        24.0, description="Hours between full backups of `flows backup schedule`."
    )
    incremental_hours: NonNegativeFloat = Field(
        6.0,
        description="Hours between a backup of `flows backup schedule` and an incremental one; 0 "
        "makes none.",
    )
    drill_hours: NonNegativeFloat = Field(
        168.0, description="Hours between the drills of `flows backup schedule`; 0 makes none."
    )


class Settings(Group):
    """All settings of a gateway process; `database`, `postgrest`, … are groups of settings."""

    model_config = SettingsConfigDict(env_prefix="FLOWS_")

    home: Path = Field(Path(".flows"), description="Folder of the embedded stack's state and keys.")
    host: str = Field("127.0.0.1", description="Address the gateway listens on.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        8000, description="Port the gateway listens on; 0 picks a free one."
    )
    workers: Annotated[int, Field(ge=1, le=64)] = Field(
        1,
        description="Processes that answer, on one port; one for each core. They count requests "
        "together and divide FLOWS_LIMITS_CONCURRENT and FLOWS_LIMITS_SUSTAINED among them; each "
        "opens as many connections as FLOWS_DATABASE_POOL_MAX and others allow a process.",
    )
    public_url: str | None = Field(
        None, description="URL of the gateway for its clients; also the issuer named in tokens."
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="IP addresses of reverse proxies whose X-Forwarded-For is believed, or "
        "networks of theirs as CIDR (10.1.2.0/24), separated by commas; those who come through "
        "another share the limits of its one address.",
    )

    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins of browser apps that may call the API, separated by commas "
        "(https://app.example.org).",
    )
    metrics: Literal["token", "open", "off"] = Field(
        "token",
        description="Access to /metrics: `token` (role grafanareader), `open` (everybody), `off`.",
    )
    access_log: bool = Field(True, description="Log a line of JSON for each request.")
    demo_identity: Literal["on", "off"] = Field(
        "on",
        description="Whether `flows up --demo` runs an OpenID provider, at which the demo's people "
        "sign in; it needs Node.js and npm.",
    )
    drain_seconds: NonNegativeFloat = Field(
        0.0,
        description="Seconds after SIGTERM in which /ready answers 503 while requests are still "
        "served.",
    )

    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    postgrest: PostgrestSettings = Field(default_factory=PostgrestSettings)
    replica: ReplicaSettings = Field(default_factory=ReplicaSettings)
    keys: KeysSettings = Field(default_factory=KeysSettings)
    tokens: TokenSettings = Field(default_factory=TokenSettings)
    issuers: IssuerSettings = Field(default_factory=IssuerSettings)
    docs: DocsSettings = Field(default_factory=DocsSettings)
    backup: BackupSettings = Field(default_factory=BackupSettings)
    http: HttpSettings = Field(default_factory=HttpSettings)
    limits: LimitsSettings = Field(default_factory=LimitsSettings)
    imports: ImportSettings = Field(default_factory=ImportSettings)

    @field_validator("cors_origins", mode="before")
    @classmethod
    def split_origins(cls, value: Any) -> Any:
        """Split `a, b` into origins; refuse one that a browser would never send."""
        if isinstance(value, str):
            value = tuple(_words(value))
        for origin in value:
            if not re.fullmatch(r"https?://[^/*\s]+", origin):
                raise ValueError(f"{origin!r} is not an origin like https://app.example.org")
        return value

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def split_addresses(cls, value: Any) -> Any:
        """Split `a, b` into IP addresses and networks; refuse anything else."""
        if isinstance(value, str):
            value = tuple(_words(value))
        return tuple(str(ip_network(address)) for address in value)

    @field_validator("public_url")
    @classmethod
    def without_slash(cls, url: str | None) -> str | None:
        """Remove a trailing slash, so that paths can be appended."""
        return url.rstrip("/") if url else None

    @property
    def renamed_variables(self) -> dict[str, str]:
        """The variables set under a former name: former → present name."""
        return self.postgrest.renamed() | self.http.renamed()

    @property
    def base_url(self) -> str:
        """The URL of the gateway for its clients, without a trailing slash."""
        return self.public_url or f"http://{self.host}:{self.port}"

    @property
    def key_folder(self) -> Path:
        """The folder of the key files."""
        return self.keys.folder or self.home / "keys"

    @property
    def signing_key(self) -> str | None:
        """The private key from the environment, or None."""
        key = self.keys.signing_key
        return key.get_secret_value() if key else None
