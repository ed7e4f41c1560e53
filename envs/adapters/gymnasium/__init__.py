"""Any Gymnasium environment, with tunable dynamics where they are known."""
