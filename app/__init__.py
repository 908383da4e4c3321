"""The Flows gateway: the API that energy communities run on."""

__version__ = "0.1.0"
