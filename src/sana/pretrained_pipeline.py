"""Loading, saving and publishing a pipeline, in the folders that diffusers has too."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import torch

from sana.catalog import EMBEDDED, locate
from sana.choices import Existing
from sana.devices import usable_device
from sana.hub_absence import mend_cache, suggesting_names
from sana.kernels import Kernels, check_kernels
from sana.pipeline_folder import INDEX, PipelineFacts, check_components, read_facts, write_facts
from sana.pipeline_parts import load_parts
from sana.publishing.model_card import render_card
from sana.publishing.publication import inspect_folder
from sana.publishing.upload import publish
from sana_ae import DCAE
from sana_dit import CaptionEncoder, Quantization, SanaTransformer

# transformers 5 knows tokenizers by both names, 4 by the second only.
_NAMES_IN_TRANSFORMERS_4 = {"GemmaTokenizer": "GemmaTokenizerFast", "TokenizersBackend": "PreTrainedTokenizerFast"}


class PretrainedPipeline:
    """Gives a pipeline of three models the verbs of the Hub."""

    caption_encoder: CaptionEncoder
    transformer: SanaTransformer
    autoencoder: DCAE
    facts: PipelineFacts

    def __init__(
        self,
        caption_encoder: CaptionEncoder,
        transformer: SanaTransformer,
        autoencoder: DCAE,
        *,
        facts: PipelineFacts | None = None,
        offload: bool = False,
        cuda_graph: bool = True,
        tile: int | None = None,
        kernels: Kernels | None = None,
    ) -> None:
        f = autoencoder.config.compression
        if tile is not None and (tile < 1 or tile % f):
            raise ValueError(f"tile is {tile} pixels; it must be a multiple of {f}, such as {16 * f}, or None")
        check_kernels(kernels)
        self.caption_encoder = caption_encoder
        self.transformer = transformer.eval()
        self.autoencoder = autoencoder.eval()
        self.facts = facts or PipelineFacts()
        self.offload = offload
        self.cuda_graph = cuda_graph
        self.tile = tile
        self.kernels = kernels

    @classmethod
    def from_pretrained(
        cls,
        repo_or_dir: str | Path,
        *,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        quantize: Quantization | None = None,
        offload: bool = False,
        cuda_graph: bool = True,
        tile: int | None = None,
        kernels: Kernels | None = None,
    ) -> Self:
        """Load a pipeline folder, as diffusers writes it, or a Hub repository of that layout.

        Args:
            repo_or_dir: the folder, the Hub id, a name of the catalog such as sana-1.5-1.6b-1024, or "embedded".
            revision: branch, tag or commit of the Hub repository.
            dtype: of the transformer. None is, on a GPU, the half precision that the checkpoint was published in: as
                the catalog says, else as the only fp16 or bf16 variant of its weights, else as its weights, and bf16
                for fp32. On a CPU it is fp32, or bf16 where the weights are in half precision and bf16 was measured
                to be faster there; the embedded model runs in fp32. Beside a transformer in fp16 the caption encoder
                and the autoencoder run in bf16: both overflow in fp16.
            device: where to run; None is the first GPU, else the CPU.
            quantize: "int8" or "nf4" keeps the weights of the transformer's blocks and of the caption encoder in 8 or
                4 bits; needs bitsandbytes.
            offload: whether the caption encoder waits in CPU memory while pictures are drawn.
            cuda_graph: whether, on a GPU, a step is launched as one CUDA graph per size; see `sana_dit.StepGraphs`.
            tile: pixels per side that the autoencoder decodes at once, None being whole pictures. A decoder in bf16
                takes 18 GiB for 4096x4096 pixels, and 1.7 GiB with tile=1024. Pictures are the same up to the
                rounding of sums.
            kernels: "fused" draws with Triton kernels wherever they can run, which is on a GPU, and else as
                "reference" does, with plain PyTorch. None is what `sana_dit.ops.use` and `sana_ae.ops.use` say where
                pictures are drawn: without them, "reference".

        Raises:
            FileNotFoundError: there is no such folder, component or revision, or it is not cached and the Hub is out of
                reach.
            ImportError: bitsandbytes is asked for and not installed.
            OSError: a file in the Hub's cache is damaged, which is fetched again, and the Hub is out of reach.
            ValueError: a component's weights do not fit its configuration, or are damaged.
        """
        if repo_or_dir == EMBEDDED and dtype is None:
            dtype = torch.float32
        repo_or_dir, revision = locate(repo_or_dir, revision)
        check_components(repo_or_dir)
        device = usable_device(device)
        with suggesting_names(repo_or_dir, revision):
            if not Path(repo_or_dir).is_dir():
                mend_cache(str(repo_or_dir), INDEX, revision=revision)
            facts = read_facts(repo_or_dir, revision=revision)
            parts = load_parts(
                repo_or_dir, revision=revision, device=device, dtype=dtype, quantize=quantize, offload=offload
            )
        return cls(*parts, facts=facts, offload=offload, cuda_graph=cuda_graph, tile=tile, kernels=kernels)

    @classmethod
    def embedded(cls, *, device: torch.device | str | None = None) -> Self:
        """The small model that comes with this package: emoji scenes at 128x128, in fp32."""
        return cls.from_pretrained(EMBEDDED, device=device, dtype=torch.float32)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write a folder that this class and diffusers load: the index comes last, so half of one is not a pipeline."""
        tokenizer = type(self.caption_encoder.tokenizer).__name__
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / INDEX).unlink(missing_ok=True)
        self.caption_encoder.save_pretrained(directory)
        self.transformer.save_pretrained(directory / "transformer")
        self.autoencoder.save_pretrained(directory / "vae")
        write_facts(
            directory,
            self.facts,
            sprint=self.transformer.config.guidance_embeds,
            text_encoder=type(self.caption_encoder.text_encoder).__name__,
            tokenizer=_NAMES_IN_TRANSFORMERS_4.get(tokenizer, tokenizer),
        )

    def push_to_hub(
        self, repo: str, *, licence: str, private: bool = False, existing: Existing = "refuse", token: str | None = None
    ) -> str:
        """Publish the pipeline with a card made from its configuration; returns the address of the commit.

        `sana publish` does more: it shows what it would upload, and takes what the card is to say.

        Raises:
            ValueError: weights are not finite, the name is not a Hub id, or the repository holds other files.
            PermissionError: the Hub does not let this token write there.
            OSError: the Hub cannot be reached.
        """
        with TemporaryDirectory() as name:
            folder = Path(name) / "pipeline"
            self.save_pretrained(folder)
            publication = inspect_folder(folder, card=render_card(folder, repo, licence=licence))
            return publish(publication, repo, private=private, existing=existing, token=token)
