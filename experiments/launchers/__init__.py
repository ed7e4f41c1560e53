"""Who runs the stages of a graph: processes of this machine, or of a Ray cluster. What they share is in `launcher`."""
