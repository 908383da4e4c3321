"""Tests of the examination of a deployment."""
