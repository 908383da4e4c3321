"""What operators need: health, metrics, maintenance, backup."""
