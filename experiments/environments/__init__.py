"""The survey of third-party environments: which packages, how each is tried, and the table of what came of it."""
