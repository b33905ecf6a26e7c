"""Training runs from their TOML files: transformers, cascades, autoencoders and judges, in sana_train's loop."""
