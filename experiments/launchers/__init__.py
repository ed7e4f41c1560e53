"""Ways to run a stage graph; `local` runs it in worker processes of this machine."""
