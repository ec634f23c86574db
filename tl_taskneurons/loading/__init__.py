"""From names to tasks and models."""
