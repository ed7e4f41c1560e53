"""From finished stages to numbers, tables and pictures."""
