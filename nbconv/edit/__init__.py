"""Graph surgery that needs no training: heads, parameters, export, batch norm folded and repaired."""
