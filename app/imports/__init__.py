"""Imports of files by HTTP: received by a gateway, run by a process of its own, known to all."""
