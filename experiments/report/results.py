"""Version of ``results.json``."""

VERSION = 2
