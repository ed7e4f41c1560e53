"""From a config to a graph of stages."""
