"""The reports of `/v1`, one in each module."""
