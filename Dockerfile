# The images of docker-compose.yml: `gateway` serves and has no server in it; `backup` adds
# PostgreSQL's programs with TimescaleDB, which backups and drills run.
FROM python:3.12-slim-bookworm AS base
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /srv/flows
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY app app
COPY sql sql

# The documentation, which the gateway serves under /docs/guide.
FROM base AS site
COPY mkdocs.yml ./
COPY docs docs
RUN pip install --constraint constraints.txt --editable ".[docs]" \
    && NO_MKDOCS_2_WARNING=1 python -m mkdocs build --strict --quiet

FROM base AS gateway
RUN pip install --constraint constraints.txt --editable . \
    && useradd --system --uid 10001 --create-home --home-dir /var/lib/flows flows
COPY --from=site /srv/flows/site site
USER 10001
ENTRYPOINT ["flows"]

# Its server must have the extension of the one it restores, in the same version.
FROM gateway AS backup
USER 0
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl gnupg postgresql-common \
    && /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y \
    && curl -fsSL https://packagecloud.io/timescale/timescaledb/gpgkey \
        | gpg --dearmor -o /usr/share/keyrings/timescaledb.gpg \
    && echo "deb [signed-by=/usr/share/keyrings/timescaledb.gpg]" \
        "https://packagecloud.io/timescale/timescaledb/debian/ bookworm main" \
        > /etc/apt/sources.list.d/timescaledb.list \
    && apt-get update \
    && apt-get install -y --no-install-recommends postgresql-18 \
        "timescaledb-2-postgresql-18=2.29.2*" "timescaledb-2-loader-postgresql-18=2.29.2*" \
    && rm -rf /var/lib/apt/lists/*
ENV FLOWS_POSTGRES_BIN=/usr/lib/postgresql/18/bin
# The database's user in its image: it writes the archive, and reads what it restores.
USER 70:70
