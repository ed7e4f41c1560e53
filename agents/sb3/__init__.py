"""The Stable-Baselines3 backend; the only place that imports it."""
