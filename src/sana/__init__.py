"""SANA-1.5 text-to-image, composed from the sana-* libraries: a prompt in, a picture out."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sana.pipeline import SanaPipeline
    from sana.pipeline_folder import PipelineFacts

__version__ = version("sana-suite")

__all__ = ["PipelineFacts", "SanaPipeline", "__version__"]


def __getattr__(name: str) -> Any:
    # When first asked for: with torch and transformers they take seconds to import, and `sana --help` needs neither.
    if name == "SanaPipeline":
        from sana.pipeline import SanaPipeline

        return SanaPipeline
    if name == "PipelineFacts":
        from sana.pipeline_folder import PipelineFacts

        return PipelineFacts
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
