"""`flows import`: half-hourly readings from a CSV file into a register."""
