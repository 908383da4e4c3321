"""The whole examination, in one list of findings."""

from collections.abc import Callable, Iterator

import psycopg

from app.doctor import deployment
from app.doctor.database import examine_database
from app.doctor.finding import Finding
from app.settings import Settings


def examine_deployment(
    url: str, settings: Settings, *, gateway: str, gateways: int
) -> list[Finding]:
    """Return the findings, faults first; `url` is the administrator's, `gateway` a base URL."""
    steps: tuple[Callable[[], Iterator[Finding]], ...] = (
        lambda: examine_database(url),
        lambda: deployment.examine_secrets(settings),
        lambda: deployment.examine_tls(settings),
        lambda: deployment.examine_services(gateway),
        lambda: deployment.examine_postgrests(settings),
        lambda: deployment.examine_disks(settings),
    )
    found = [finding for step in steps for finding in step()]
    if not any(finding.check == "database" for finding in found):
        try:
            found += deployment.examine_pools(url, settings, gateways)
            found += deployment.examine_backups(url, settings)
            found += deployment.examine_data_disk(url)
        except psycopg.OperationalError as error:
            found.append(Finding("database", "fault", str(error).strip(), "see the server's log"))
    # The database's files may be on a disk of the other folders.
    return sorted(
        dict.fromkeys(found), key=lambda finding: (finding.level != "fault", finding.check)
    )
