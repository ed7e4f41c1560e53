"""Policy networks and their encoders; the registry imports every module here."""
