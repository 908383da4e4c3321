"""What operators need: migrations, health, metrics, upkeep."""
