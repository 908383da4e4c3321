"""A client of the Flows API: a token that is renewed in time, pages, and errors by name."""

from flows_client.auth import ClientCredentials
from flows_client.client import Flows
from flows_client.errors import FlowsError

__all__ = ["ClientCredentials", "Flows", "FlowsError"]
