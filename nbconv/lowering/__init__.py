"""From a node to steps: kernels, their arguments, packed constants."""
