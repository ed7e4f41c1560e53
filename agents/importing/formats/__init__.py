"""Formats of files that hold an agent; each module registers one."""
