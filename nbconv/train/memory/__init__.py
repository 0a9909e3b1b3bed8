"""Choose a memory policy for a training step."""
