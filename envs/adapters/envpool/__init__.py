"""EnvPool's environments."""
