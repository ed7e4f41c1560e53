"""Formats, one file each; the registry imports every module here."""
