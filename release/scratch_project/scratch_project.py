"""Latents from a small random transformer."""

from sana_dit import SanaConfig, SanaTransformer, flow_dpm_solver, seeded_noise

heads = {"num_attention_heads": 2, "num_cross_attention_heads": 2, "cross_attention_head_dim": 32}
model = SanaTransformer(SanaConfig(num_layers=1, caption_channels=8, **heads))
latents = flow_dpm_solver(lambda x, t: model(x, t, x.new_zeros(1, 3, 8)), seeded_noise([7], (32, 4, 4)), steps=2)
assert latents.shape == (1, 32, 4, 4)
