"""Agents as files for other programs; each is checked against the network before it is written."""
