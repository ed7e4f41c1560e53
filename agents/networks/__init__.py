"""Kinds of networks beyond the plain one, one file each; every module here is imported by the registry."""
