"""Configs, the stage graph, launchers, the store of results, and reports."""

__version__ = "0.1.0"
