"""The built-in games as tasks."""
