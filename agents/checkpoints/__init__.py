"""Checkpoints and snapshots: what is written and read back."""
