"""Authentication and its administration: keys, tokens, clients, revocation, audit."""
