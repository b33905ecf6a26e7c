"""Depth pruning of whole pipelines (SANA-1.5): measured, chosen, removed, recovered."""
