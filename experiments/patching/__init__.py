"""``graft patch``: what a changed game does to an agent, what brings it back, and what must hold."""
