"""Games of Unity and Godot, played through a process of the Python that has the engine's library."""
