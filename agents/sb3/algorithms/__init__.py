"""Algorithms of the Stable-Baselines3 backend, one file each; every module here is imported by the registry."""
