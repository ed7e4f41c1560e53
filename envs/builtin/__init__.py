"""The built-in games: a simulator compiled with Numba, its games, views and team games."""
