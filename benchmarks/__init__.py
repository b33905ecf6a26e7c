"""Measurements against diffusers, in turn in one process; `nox -s bench -- <module>` runs them."""
