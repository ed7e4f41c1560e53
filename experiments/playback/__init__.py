"""Frames of an agent that plays."""
