"""The parts of `graft tune`: a search's definition, its trials in Optuna's journal, and its results."""
