"""What captions, scores and rewrites images' captions: protocols that any model can satisfy."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from PIL import Image

Form = Literal["chinese", "mixed", "emoji"]
FORMS: tuple[Form, ...] = ("chinese", "mixed", "emoji")


class Captioner(Protocol):
    """Says what images show."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Names the model and its settings, as JSON; "model" becomes the source of its captions."""

    def __call__(self, images: "Sequence[Image.Image]", /) -> Sequence[str]:
        """Return one caption per RGB image."""


class CaptionScorer(Protocol):
    """Says how well captions describe images: 100 times the cosine of CLIP's embeddings, or on another scale."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Names the model and its settings, as JSON."""

    def __call__(
        self, images: "Sequence[Image.Image]", captions: Sequence[Sequence[str]], /
    ) -> Sequence[Sequence[float]]:
        """Return the score of each caption of each RGB image."""


class Rewriter(Protocol):
    """Says in another form what English captions say."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Names the model and its settings, as JSON; "model" and the form become the source of its captions."""

    def __call__(self, captions: Sequence[str], form: Form, /) -> Sequence[str]:
        """Return the captions in Chinese, in Chinese and English mixed, or with emoji for words."""
