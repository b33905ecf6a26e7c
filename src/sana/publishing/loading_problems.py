"""What keeps the loaders from taking a model: each part is loaded, on the meta device where that can be."""

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from textwrap import shorten

import torch

from sana.pipeline_folder import INDEX, read_facts, read_json
from sana.publishing.part_card import part_kind
from sana_ae import DCAE
from sana_dit import CaptionEncoder, SanaTransformer
from sana_judge import VILAJudge

_META = torch.device("meta")
_LOADERS: dict[str, Callable[[Path], object]] = {
    "SanaTransformer": lambda folder: SanaTransformer.from_pretrained(folder, device=_META),
    "DCAE": lambda folder: DCAE.from_pretrained(folder, device=_META),
    "VILAJudge": lambda folder: VILAJudge.from_pretrained(folder, device=_META),
}
_OF_PIPELINES: dict[str, Callable[[Path], object]] = {
    INDEX: read_facts,
    "text_encoder": lambda folder: _tokenize(CaptionEncoder.from_pretrained(folder)),  # its weights are read whole
    "transformer": lambda folder: _LOADERS["SanaTransformer"](folder / "transformer"),
    "vae": lambda folder: _LOADERS["DCAE"](folder / "vae"),
}


def loading_problems(folder: Path, names: set[str]) -> Iterator[str]:
    """Yields what `from_pretrained` says against a folder of which these files are published, and its parts."""
    loads = {name: (load, folder) for name, load in _OF_PIPELINES.items() if INDEX in names}
    for path in (folder / name for name in sorted(names) if PurePosixPath(name).name == "config.json"):
        part, kind = path.parent.relative_to(folder).as_posix(), part_kind(read_json(path.parent, path.name) or {})
        if kind is not None and part not in loads:
            loads[part] = _LOADERS[kind.name], path.parent
    for part, (load, place) in loads.items():
        try:
            load(place)
        except (OSError, TypeError, ValueError) as error:
            yield f"{'the model' if part == '.' else part} cannot be loaded: {error}"


def _tokenize(encoder: CaptionEncoder) -> None:
    """Raises ValueError where the tokenizer cannot encode captions: it may load and be unable to pad."""
    try:
        encoder.tokenize("two red apples left of a cat")
    except Exception as error:  # tokenizers raises bare Exceptions
        told = shorten(str(error), 200, placeholder=" ...")
        raise ValueError(f"its tokenizer cannot encode captions ({told}): save it again, with all its files") from error
