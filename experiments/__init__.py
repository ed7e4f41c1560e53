"""Configs, the stage graph, launchers, the store of results, and reports."""
