"""The parts of `python -m experiments.tune`: a search's definition, its trials in Optuna's journal, and its results."""
