"""Tasks, prompts and batches of token ids."""
