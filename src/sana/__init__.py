"""SANA-1.5 text-to-image, composed from the sana-* libraries: a prompt in, a picture out."""

from importlib.metadata import version

from sana.pipeline import SanaPipeline
from sana.pipeline_folder import PipelineFacts

__version__ = version("sana-suite")

__all__ = ["PipelineFacts", "SanaPipeline", "__version__"]
