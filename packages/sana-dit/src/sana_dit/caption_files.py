"""The folders of a caption encoder: where a text encoder and its tokenizer lie, and how they are written."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from sana_dit.caption_facts import KEY, CaptionFacts
from sana_dit.checkpoint_reading import FACTS, Fetch, fetcher, read_json
from sana_dit.checkpoint_writing import replacing_files, write_json
from sana_dit.hub_download import absence_explained

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
)
"""Files of which a tokenizer has one or more: without any, transformers makes one that knows no words."""
_ALL_WEIGHTS = "model*.safetensors*"
_SHARD_SIZE = "5GB"  # transformers 5 would write up to 50 GB into one file
SAVED_WEIGHTS = (f"text_encoder/{_ALL_WEIGHTS}",)
"""Patterns of the weights that a save writes, or an earlier one wrote."""
_METADATA = [
    "*sana.json",
    "*config.json",
    "*tokenizer*",
    "*special_tokens_map.json",
    "*added_tokens.json",
    *(f"*{name}" for name in VOCABULARIES),
    "*merges.txt",
    "*model.safetensors.index*.json",
]
_VARIANTS = {torch.bfloat16: "bf16", torch.float16: "fp16"}
_WEIGHTS = re.compile(r"model(?:\.(\w+))?(?:-\d+-of-\d+)?\.safetensors")


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionFiles:
    """Folders on this machine; variant is the infix of the weights' names, "bf16" in model.bf16.safetensors."""

    text_encoder: Path
    tokenizer: Path
    variant: str | None
    facts: CaptionFacts


def find_caption_files(
    repo_or_dir: str | Path, *, subfolder: str | None, revision: str | None, dtype: torch.dtype | None
) -> CaptionFiles:
    """Finds the folders of a caption encoder, downloading from the Hub only what it needs.

    The text encoder is in text_encoder/ or in the folder itself, the tokenizer in tokenizer/, beside the text
    encoder, or in tokenizer/ next to its folder. Raises FileNotFoundError where one is missing.
    """
    fetch = fetcher(repo_or_dir, revision)
    with absence_explained(repo_or_dir, revision):
        root = fetch(_METADATA)
        folder = root / subfolder if subfolder else root
        text_encoder = _first(
            [folder / "text_encoder", folder], ["config.json"], f"no text encoder (config.json) in {folder}"
        )
        tokenizer = _first(
            [folder / "tokenizer", folder, folder.parent / "tokenizer"],
            VOCABULARIES,
            f"no tokenizer ({', '.join(VOCABULARIES)}) in {folder} or its tokenizer/",
        )
        prefix = text_encoder.relative_to(root).as_posix().removeprefix(".")
        return CaptionFiles(
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            variant=_find_variant(fetch, f"{prefix}/" if prefix else "", dtype),
            facts=_read_facts([text_encoder / FACTS, folder / FACTS, root / FACTS]),
        )


def load_text_encoder(files: CaptionFiles, dtype: torch.dtype | None) -> "PreTrainedModel":
    """Loads the weights of a text encoder; transformers would only warn of missing ones and draw them at random.

    Raises ImportError without transformers, ValueError where a file is damaged or weights do not fit.
    """
    transformers = import_transformers()
    # transformers renamed torch_dtype within its version 4.
    dtype_name = "dtype" if hasattr(transformers.PretrainedConfig(), "dtype") else "torch_dtype"
    try:
        text_encoder, found = transformers.AutoModel.from_pretrained(
            files.text_encoder,
            variant=files.variant,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **{dtype_name: dtype or "auto"},
        )
    except (
        ImportError,
        MemoryError,
        OSError,
        torch.OutOfMemoryError,
    ):  # not the files' fault, or named by transformers
        raise
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"the text encoder in {files.text_encoder} is damaged ({error}): download it again") from error
    except Exception as error:  # on what config.json says transformers raises KeyError, errors of its own and others
        told = shorten(f"{type(error).__name__}: {error}", 200, placeholder=" ...")
        raise ValueError(
            f"{files.text_encoder / 'config.json'} does not describe a text encoder that transformers "
            f"{transformers.__version__} can make ({told}): download it again, or install the version that wrote it"
        ) from error
    if missing := sorted(found["missing_keys"]):
        raise ValueError(
            f"the text encoder in {files.text_encoder} lacks {len(missing)} weights ({', '.join(missing[:3])} ...): "
            "download it again"
        )
    model: PreTrainedModel = text_encoder
    return model


def load_tokenizer(files: CaptionFiles) -> "PreTrainedTokenizerBase":
    """Loads the tokenizer; raises ValueError where it cannot, and ImportError where a package is missing."""
    try:
        tokenizer: PreTrainedTokenizerBase = import_transformers().AutoTokenizer.from_pretrained(
            files.tokenizer, trust_remote_code=False
        )
    except Exception as error:  # tokenizers raises bare Exceptions
        # Where tokenizer.json is damaged, transformers 4 asks for packages to read other files with.
        if isinstance(error, ImportError) and not _is_damaged(files.tokenizer / "tokenizer.json"):
            raise
        raise ValueError(
            f"the tokenizer in {files.tokenizer} could not be loaded ({error}): if its files are complete, check "
            "transformers and sentencepiece"
        ) from error
    return tokenizer


def _is_damaged(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except FileNotFoundError:
        return False
    except ValueError:
        return True
    return False


def import_transformers() -> Any:
    """Returns the package; raises an ImportError that says how to install it."""
    try:
        import transformers
    except ImportError as error:
        raise ImportError("CaptionEncoder needs transformers: pip install 'sana-dit[caption]'") from error
    return transformers


def save_caption_files(
    directory: Path,
    text_encoder: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    facts: CaptionFacts,
) -> None:
    """Writes text_encoder/ and tokenizer/ into directory; if one of them fails, neither has changed."""
    models, words = directory / "text_encoder", directory / "tokenizer"
    with replacing_files(models) as new_models, replacing_files(words) as new_words:
        text_encoder.save_pretrained(new_models, max_shard_size=_SHARD_SIZE)
        tokenizer.save_pretrained(new_words)
        _name_tokenizer_class_for_all_versions(new_words / "tokenizer_config.json")
        write_json(new_models / FACTS, {**read_json(models / FACTS), KEY: asdict(facts)})
        weights = {path.name for path in new_models.glob(_ALL_WEIGHTS)}
    for path in models.glob(_ALL_WEIGHTS):
        if path.name not in weights:
            path.unlink()  # of an earlier save in other shards, which would be loaded instead


def _first(folders: list[Path], names: Sequence[str], problem: str) -> Path:
    for folder in folders:
        if any((folder / name).is_file() for name in names):
            return folder
    raise FileNotFoundError(f"{problem}; give a pipeline folder, or the folder of a language model")


def _find_variant(fetch: Fetch, prefix: str, dtype: torch.dtype | None) -> str | None:
    """Weights of the wanted dtype if there are any, else the plain ones, else whatever there is."""
    wanted = _VARIANTS.get(dtype) if dtype else None
    choices = [[f"{prefix}model.safetensors", f"{prefix}model-*.safetensors"], [f"{prefix}model.*safetensors"]]
    if wanted:
        choices.insert(0, [f"{prefix}model.{wanted}.safetensors", f"{prefix}model.{wanted}-*.safetensors"])
    for patterns in choices:
        root = fetch(patterns)
        for pattern in patterns:
            for path in sorted(root.glob(pattern)):
                if match := _WEIGHTS.fullmatch(path.name):
                    return match[1]
    raise FileNotFoundError(
        f"no {prefix}model.safetensors in {fetch([])}; weights must be safetensors files, pickles are not read"
    )


def caption_card(repo: str, num_parameters: int) -> str:
    """Returns a short README.md for a caption encoder on the Hub."""
    return f"""---
library_name: sana-dit
pipeline_tag: feature-extraction
tags: [sana]
---

# {repo.rpartition("/")[2]}

The caption encoder of a SANA pipeline: a language model of {num_parameters / 1e6:,.1f}M parameters and its tokenizer.

```python
from sana_dit import CaptionEncoder

encoder = CaptionEncoder.from_pretrained("{repo}")
```
"""


def _read_facts(paths: list[Path]) -> CaptionFacts:
    for path in paths:
        if facts := CaptionFacts.from_json(read_json(path), where=path):
            return facts
    return CaptionFacts()


def _name_tokenizer_class_for_all_versions(path: Path) -> None:
    # transformers 5 writes its new name, which 4 does not know; both know the old one.
    config = read_json(path)
    if config.get("tokenizer_class") == "TokenizersBackend":
        write_json(path, {**config, "tokenizer_class": "PreTrainedTokenizerFast"})
