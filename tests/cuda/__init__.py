"""A device for tests that needs no GPU: it runs compiled PTX on NumPy and checks what it runs."""
