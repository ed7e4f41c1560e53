"""Expanding a config into a graph of stages."""
