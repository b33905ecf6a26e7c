"""Inference-time scaling: what a sampler and a judge are, for any images and with no dependency."""

from importlib.metadata import version

from sana_scale.protocols import Judge, Sampler

__version__ = version("sana-scale")

__all__ = ["Judge", "Sampler", "__version__"]
