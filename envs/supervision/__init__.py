"""Third-party environments: restarted and counted when they fail, ended when they hang."""
