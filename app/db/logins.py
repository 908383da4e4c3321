"""Logins of roles that read SQL: a password, which is hashed before it is sent."""

import psycopg
from psycopg import sql

# Roles that may log in for themselves: they read every ESCO, and write nothing.
READERS = ("grafanareader",)
# Of each, so that dashboards do not take the connections of all others.
READER_CONNECTIONS = 20


def grant_login(admin_url: str, role: str, password: str) -> None:
    """Let one of `READERS` log in with a password; ValueError for another role."""
    if role not in READERS:
        raise ValueError(f"{role} is none of the roles that may log in: {', '.join(READERS)}")
    with psycopg.connect(admin_url, autocommit=True) as connection:
        set_password(connection, role, password)
        limited = connection.execute(
            "select from pg_roles where rolname = %s and rolconnlimit >= 0", (role,)
        ).fetchone()
        connection.execute(sql.SQL("alter role {} login").format(sql.Identifier(role)))
        if limited is None:
            connection.execute(
                sql.SQL("alter role {} connection limit {}").format(
                    sql.Identifier(role), sql.Literal(READER_CONNECTIONS)
                )
            )


def revoke_login(admin_url: str, role: str) -> None:
    """Let one of `READERS` log in no more; sessions that are open stay. ValueError for another."""
    if role not in READERS:
        raise ValueError(f"{role} is none of the roles that may log in: {', '.join(READERS)}")
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("alter role {} nologin password null").format(sql.Identifier(role))
        )


def set_password(connection: psycopg.Connection, role: str, password: str) -> None:
    """Give a role a password, hashed here, because statements end up in the server's log."""
    verifier = connection.pgconn.encrypt_password(
        password.encode(), role.encode(), b"scram-sha-256"
    ).decode()
    connection.execute(
        sql.SQL("alter role {} password {}").format(sql.Identifier(role), sql.Literal(verifier))
    )
