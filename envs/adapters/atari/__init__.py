"""Atari's games."""
