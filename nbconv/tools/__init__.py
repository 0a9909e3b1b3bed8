"""What developers look with: profiler, roofline, gradient check."""
