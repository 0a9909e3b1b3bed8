"""nbconv beside its peers and beside what the machine can do: ``python benchmarks/latency.py`` and so on."""
