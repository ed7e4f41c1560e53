"""The parts of `python -m experiments.tune`: search spaces, trials, early stopping, populations, and their ledger."""
