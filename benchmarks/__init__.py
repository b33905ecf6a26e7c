"""Measurements against diffusers, in turn in one process; `nox -s bench -- <op|dit|ae|image|train>` runs them."""
