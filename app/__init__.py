"""The Flows gateway: the API for energy communities."""

__version__ = "0.1.0"
