"""Gymnasium's MuJoCo robots."""
