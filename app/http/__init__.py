"""The HTTP layer in front of the routes: server, protocol, limits, and responses."""
