"""What every layer may use: files, random numbers, pictures."""
