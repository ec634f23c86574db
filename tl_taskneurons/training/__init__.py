"""Training chosen neurons and its rivals, and the deltas that training leaves."""
