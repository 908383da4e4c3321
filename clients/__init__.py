"""Clients of the API for Python and TypeScript, with types generated from its document."""
