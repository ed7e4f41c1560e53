"""Files of a run: records of stages, locks, provenance."""
