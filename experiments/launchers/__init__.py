"""Launchers: processes of this machine, or workers of a Ray cluster, that run stages."""
