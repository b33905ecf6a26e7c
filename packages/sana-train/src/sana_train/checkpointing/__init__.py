"""Checkpoints that a kill at any instant leaves whole, and that any number of processes can read."""
