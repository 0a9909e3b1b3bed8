"""From a graph to a program: steps in order, memory, tables."""
