"""Who is calling: keys, tokens, clients, revocation, audit."""
