"""The `flows` command: one module per group of commands, without logic of its own."""
