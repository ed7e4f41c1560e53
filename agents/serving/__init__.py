"""Trained agents that play: decisions for many at once, from raw observations to actions."""
