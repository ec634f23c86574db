"""Processes, progress, memory and files: nothing here knows what a neuron is."""
