"""One view of both model classes: layers, hooks, forward passes and generation."""
