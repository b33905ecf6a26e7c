"""VILA-Judge, natively on transformers: what is VILA's alone."""
