"""Examination of what is around the database: settings, keys, TLS, pools, backups, disks."""

import re
import shutil
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psycopg
from psycopg.conninfo import conninfo_to_dict

from app.auth.keys import read_keys
from app.backup.check import find_faults
from app.backup.folder import BackupError, BackupFolder
from app.db.archiver import archiver
from app.doctor.finding import Finding, new_fault, new_warning
from app.monitoring.certificates import certificate_end
from app.settings import Settings

LOCAL_HOSTS = frozenset(("", "localhost", "127.0.0.1", "::1", None))
EXPIRES_SOON = timedelta(days=14)
OLDEST_POSTGREST = 12
LEAST_FREE = 0.1  # of a disk
GATEWAY_CLOCK_SECONDS = 5.0  # a Date has whole seconds, and the answer takes some
# Of a gateway beside its pools: two for /ready and /metrics, and one that follows keys.
OTHER_CONNECTIONS = 3


def examine_secrets(settings: Settings) -> Iterator[Finding]:
    """Yield keys and files of secrets that are missing, unusable or readable by others."""
    if settings.signing_key is None:
        try:
            if not read_keys(settings.key_folder):
                yield new_fault(
                    "secrets",
                    f"there is no signing key in {settings.key_folder}",
                    "flows db migrate, which makes one",
                )
        except SystemExit as refusal:
            yield new_fault(
                "secrets", str(refusal), "mend that file; `flows keys rotate` makes a key"
            )
    dotenv = Path(".env")
    if dotenv.is_file() and dotenv.stat().st_mode & 0o077 and _has_password(dotenv):
        yield new_warning(
            "secrets",
            f"{dotenv.absolute()} has passwords and can be read by others",
            f"chmod 600 {dotenv.absolute()}",
        )


def _has_password(dotenv: Path) -> bool:
    """Return True if a line holds a URL with a password."""
    lines = dotenv.read_text(errors="replace").splitlines()
    values = [line.partition("=")[2].strip(" '\"") for line in lines]
    return any(re.match(r"[a-z]+://[^/@:]*:[^/@]+@", value) for value in values)


def examine_tls(settings: Settings) -> Iterator[Finding]:
    """Yield connections over a network without TLS, and a certificate that expires soon."""
    urls = {
        "FLOWS_DATABASE_URL": settings.database.url,
        "FLOWS_DATABASE_ADMIN_URL": settings.database.admin_url,
    }
    for variable, url in urls.items():
        host = conninfo_to_dict(url.get_secret_value()).get("host") if url else None
        if url is None or str(host or "").startswith("/") or host in LOCAL_HOSTS:
            continue
        try:
            with psycopg.connect(url.get_secret_value(), connect_timeout=5) as connection:
                secured = bool(connection.pgconn.ssl_in_use)
        except psycopg.OperationalError:
            continue  # the database's own check tells
        if not secured:
            yield new_warning(
                "tls",
                f"{variable} reaches {host} without TLS",
                "offer TLS on the server, and add ?sslmode=verify-full to the URL, "
                "unless the network is private",
            )
    public = urlsplit(settings.base_url)
    if public.hostname in LOCAL_HOSTS:
        return
    if public.scheme != "https":
        yield new_fault(
            "tls",
            f"clients reach {settings.base_url} without TLS",
            "put a proxy with TLS in front, and set FLOWS_PUBLIC_URL to https://…",
        )
        return
    try:
        expires = certificate_end(str(public.hostname), public.port or 443)
    except (OSError, ValueError) as error:
        yield new_fault(
            "tls",
            f"{settings.base_url} does not speak TLS: {error}",
            "mend the proxy or its certificate",
        )
        return
    if expires - datetime.now(UTC) < EXPIRES_SOON:
        yield new_fault(
            "tls", f"the certificate of {settings.base_url} ends at {expires:%Y-%m-%d}", "renew it"
        )


def examine_pools(url: str, settings: Settings, gateways: int) -> Iterator[Finding]:
    """Yield servers that allow fewer connections than gateways and PostgRESTs may open there."""
    database, replica = settings.database, settings.replica.database_url
    processes = gateways * settings.workers
    each = (
        database.pool_max + database.token_pool_max + settings.imports.running + OTHER_CONNECTIONS
    )
    if replica:
        each += 1  # follows how far the primary is
    wanted = processes * each + settings.postgrest.pool * len(settings.postgrest.urls)
    yield from _too_many_connections("the primary" if replica else "the server", url, wanted)
    if replica:
        wanted = processes * (database.pool_max + 1)  # and one that follows how far it has replayed
        wanted += settings.postgrest.pool * len(settings.replica.urls)
        yield from _too_many_connections("the replica", replica.get_secret_value(), wanted)


def _too_many_connections(server: str, url: str, wanted: int) -> Iterator[Finding]:
    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            row = connection.execute(
                "select current_setting('max_connections')::int,"
                " current_setting('superuser_reserved_connections')::int"
            ).fetchone()
    except psycopg.OperationalError as error:
        yield new_fault("pools", f"{server}: {str(error).strip()}", "see its log")
        return
    most, reserved = row or (0, 0)
    if wanted > most - reserved:
        yield new_fault(
            "pools",
            f"gateways and PostgREST may open {wanted} connections to {server}, "
            f"max_connections = {most} leaves {most - reserved}",
            "lower FLOWS_DATABASE_POOL_MAX, or raise max_connections",
        )


def examine_services(gateway: str) -> Iterator[Finding]:
    """Yield what the gateway's /ready tells, and the distance of its clock from this machine's."""
    try:
        answer = httpx.get(f"{gateway}/ready", timeout=10)
        components = answer.json()["components"]
    except (httpx.HTTPError, ValueError, KeyError):
        yield new_warning(
            "services",
            f"no gateway answers at {gateway}",
            "start it, or set FLOWS_PUBLIC_URL to its address",
        )
        return
    for name, component in components.items():
        if component["status"] != "ok":
            yield new_fault("services", f"{name} {component['detail']}", f"see the log of {name}")
    now, told = datetime.now(UTC), parsedate_to_datetime(answer.headers["date"])
    if abs((now - told).total_seconds()) > GATEWAY_CLOCK_SECONDS:
        yield new_fault(
            "clocks",
            f"the gateway's clock says {told:%H:%M:%S}Z at {now:%H:%M:%S}Z",
            "synchronise both clocks by NTP",
        )


def examine_backups(url: str, settings: Settings) -> Iterator[Finding]:
    """Yield faults of archive, backups and the last drill."""
    given = settings.backup.folder
    if given is None:
        yield new_warning(
            "backups",
            "no folder of backups is known here",
            "set FLOWS_BACKUP_FOLDER, then `flows backup create` daily",
        )
        return
    folder = BackupFolder(given.absolute())
    oldest = timedelta(hours=settings.backup.oldest_hours)
    for text in find_faults(folder, archiver(url), oldest):
        archive = "archiv" in text
        yield new_fault(
            "archive" if archive else "backups",
            text,
            "see the server's log, and docs/how-to/back-up-and-recover.md"
            if archive
            else "flows backup create",
        )
    try:
        drilled = folder.last_drill()
    except BackupError as error:
        yield new_fault("backups", str(error), "flows backup drill")
        return
    if drilled is None:
        yield new_warning("backups", "no backup was ever drilled", "flows backup drill")
    elif drilled[1]:
        yield new_fault(
            "backups",
            f"the last drill failed: {'; '.join(drilled[1])}",
            "flows backup create, then `flows backup drill`",
        )


def examine_postgrests(settings: Settings) -> Iterator[Finding]:
    """Yield PostgRESTs that are too old; the gateway's /ready tells those that do not answer."""
    for url in (*settings.postgrest.urls, *settings.replica.urls):
        try:
            server = httpx.head(url, timeout=5).headers.get("server", "")
        except httpx.HTTPError:
            continue
        found = re.match(r"postgrest/(\d+)", server)
        if found and int(found[1]) < OLDEST_POSTGREST:
            yield new_fault(
                "versions",
                f"PostgREST {found[1]} at {url} is too old",
                f"upgrade it to PostgREST {OLDEST_POSTGREST} or newer",
            )


def examine_data_disk(url: str) -> Iterator[Finding]:
    """Yield the disk of the database's own files, if it is this machine's and nearly full."""
    with psycopg.connect(url, connect_timeout=5) as admin:
        if admin.info.host not in LOCAL_HOSTS and not admin.info.host.startswith("/"):
            return
        try:
            row = admin.execute("select current_setting('data_directory')").fetchone()
        except psycopg.errors.InsufficientPrivilege:
            return
    yield from _nearly_full([Path(row[0])] if row else [])


def examine_disks(settings: Settings) -> Iterator[Finding]:
    """Yield folders of ours whose disk is nearly full."""
    yield from _nearly_full([settings.home.absolute(), settings.backup.folder])


def _nearly_full(folders: Iterable[Path | None]) -> Iterator[Finding]:
    for folder in folders:
        if folder is None or not folder.exists():
            continue
        usage = shutil.disk_usage(folder)
        if usage.free < LEAST_FREE * usage.total:
            yield new_fault(
                "disk",
                f"the disk of {folder} has {usage.free / 2**30:.1f} GiB free of "
                f"{usage.total / 2**30:.1f}",
                "enlarge it; `flows db prune` and `flows backup prune` make room",
            )
