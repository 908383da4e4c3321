"""What every request passes before a route: the server, its protocol, limits and answers."""
