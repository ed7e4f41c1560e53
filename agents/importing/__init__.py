"""Agents of other libraries, read from their files without running anything in them, as checkpoints of Graft."""
