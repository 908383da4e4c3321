"""Tests of the deployment: the compose file's services run here, from registries' packages."""
