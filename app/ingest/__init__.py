"""Import of half-hourly readings from a CSV file into a register."""
