"""VILA-Judge: one forward per image tells how likely it shows the prompt (SANA-1.5, inference-time scaling)."""

import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Self, get_args

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from sana_judge.checkpoint_reading import find_checkpoint, fingerprint
from sana_judge.hub_download import absence_explained
from sana_judge.hub_upload import check_finite, upload
from sana_judge.image_reading import ImageLike, hash_image, read_image
from sana_judge.judge_call import pair_prompts, read_at
from sana_judge.judge_facts import JudgeFacts
from sana_judge.judge_score import Answer, Calibration, JudgeScore, Rule
from sana_judge.quantization import Quantization, quantize_linears
from sana_judge.score_cache import ScoreCache, ScoreKey
from sana_judge.scorers.model_loading import load_tokenizer
from sana_judge.vila.answering import answer_pairs, answer_prompts
from sana_judge.vila.config import VILAConfig
from sana_judge.vila.licence import find_licence, licence_notice
from sana_judge.vila.model import VILAModel
from sana_judge.vila.prompt import QuestionWriter
from sana_judge.vila.saving import SAVED_WEIGHTS, judge_card, save_judge
from sana_judge.vila.tiling import count_tiles, cut_tiles
from sana_judge.vila.weights import load_vila

# Of how answers are computed; scores kept by an earlier one are not found.
_PROTOCOL = 1


class VILAJudge:
    """Asks a vision-language model whether images show a prompt.

    Attributes:
        model: The three networks.
        max_tiles: Most tiles of an image, its thumbnail not counted; fewer are faster and see less.
        rule: What a call returns to put images in order, see `JudgeScore.value`.
        cache: Where answers are kept, or None.
        batch_tiles: Tiles per forward; an image with more has a forward of its own.
        progress: Whether to show a bar when it takes longer than a second.
        tokenizer: Of the language model.
        facts: The wording of the question, and what turns margins into probabilities; may be replaced by facts with
            another calibration.
        questions: Turns prompts into the tokens of questions.
    """

    def __init__(
        self,
        model: VILAModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        facts: JudgeFacts | None = None,
        max_tiles: int | None = None,
        rule: Rule = "margin",
        cache: ScoreCache | None = None,
        revision: str | None = None,
        batch_tiles: int = 32,
        progress: bool = True,
    ):
        """Takes what `from_pretrained` reads; `revision` names the weights, and a cache needs it."""
        if rule not in get_args(Rule):
            raise ValueError(f"rule is {rule!r}; it must be one of {get_args(Rule)}")
        if cache is not None and revision is None:
            raise ValueError("a cache needs a revision, which tells the answers of one judge from another's")
        if batch_tiles < 1:
            raise ValueError(f"batch_tiles is {batch_tiles}; it must be at least 1")
        self.model = model
        self.max_tiles = _cap_tiles(max_tiles, model.config.max_tiles)
        self.rule: Rule = rule
        self.cache = cache
        self.batch_tiles = batch_tiles
        self.progress = progress
        self.tokenizer = tokenizer
        self.facts = facts or JudgeFacts()
        self._licence = self.facts.licence  # whatever facts replace these
        self._revision = revision
        self.questions = QuestionWriter(
            tokenizer,
            wording=self.facts.question,
            chat_template=model.config.chat_template,
            break_after_tiles=model.config.image_aspect_ratio == "dynamic",
        )

    @classmethod
    def from_pretrained(
        cls,
        repo_or_dir: str | PathLike[str],
        *,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        max_tiles: int | None = None,
        quantize: Quantization | None = None,
        rule: Rule = "margin",
        cache: str | PathLike[str] | None = None,
        batch_tiles: int = 32,
        progress: bool = True,
    ) -> Self:
        """Loads a judge; nothing that comes with it is executed. Warns if its licence excludes commercial use.

        Args:
            repo_or_dir: A Hub repository (owner/name) or a folder, with the parts llm, vision_tower and mm_projector
                in folders, or all in one file. judge.json beside config.json may hold the question and a calibration.
            revision: Branch, tag or commit on the Hub.
            dtype: Of the weights; None keeps the file's.
            device: Where to put the model; None is the CPU.
            max_tiles: Most tiles of an image, its thumbnail not counted; None is the checkpoint's. The verifier sees
                512 px as one tile and 1024 px as ten, for nine times the work.
            quantize: "int8" or "nf4" for the layers of the language model, by bitsandbytes; None leaves them whole.
            rule: What puts images in order, see `JudgeScore.value`.
            cache: SQLite file that keeps answers for the next time; many processes may share it.
            batch_tiles: Tiles per forward.
            progress: Whether to show a bar when it takes longer than a second.

        Raises:
            FileNotFoundError: There is no checkpoint, or a part of it is missing.
            ImportError: bitsandbytes is not installed, and quantize is not None.
            ValueError: It is damaged or of a kind that is not supported, or an argument is not allowed.
        """
        if quantize is not None and quantize not in get_args(Quantization):
            raise ValueError(f"quantize is {quantize!r}; it must be one of {get_args(Quantization)}, or None")
        root = find_checkpoint(repo_or_dir, revision=revision)
        if notice := licence_notice(repo_or_dir, root):
            warnings.warn(notice, stacklevel=2)
        with absence_explained(repo_or_dir, revision):
            tokenizer = load_tokenizer(find_tokenizer(root))
            model = load_vila(root, VILAConfig.read(root), dtype=dtype, device=device or "cpu")
        if quantize:
            quantize_linears(model.llm.model.layers, quantize, device=model.device)
        return cls(
            model,
            tokenizer,
            facts=replace(JudgeFacts.read(root), licence=find_licence(repo_or_dir, root)),
            max_tiles=max_tiles,
            rule=rule,
            cache=None if cache is None else ScoreCache(cache),
            revision=None if cache is None else f"{fingerprint(root)} {quantize}",
            batch_tiles=batch_tiles,
            progress=progress,
        )

    def __call__(self, prompt: str | Sequence[str], images: Sequence[ImageLike]) -> list[float]:
        """Returns one number per image, higher is better: P(yes), unless `rule` says otherwise. See `score`."""
        return [score.value(self.rule) for score in self.score(prompt, images)]

    def save_pretrained(self, directory: str | PathLike[str]) -> None:
        """Writes a folder that `from_pretrained` reads: weights, tokenizer, judge.json; config.json comes last.

        judge.json keeps the licence of the weights that it was loaded from.

        Raises:
            ValueError: The language model is quantized.
        """
        save_judge(
            Path(directory),
            self.model.config,
            self.model.state_dict(),
            tokenizer=self.tokenizer,
            facts=replace(self.facts, licence=self.facts.licence or self._licence),
        )

    def push_to_hub(
        self, repo: str, *, licence: str | None = None, private: bool = False, token: str | None = None
    ) -> str:
        """Publishes the judge as owner/name on the Hub and returns the URL of the commit.

        A repository without a card gets one. `licence` is spelled as on the Hub; None takes the licence of the weights
        that the judge was loaded from, if known. Weights of an earlier upload are removed.

        Raises:
            ValueError: Weights are quantized or not finite, or private is asked of a repository that is public.
        """
        check_finite(self.model.state_dict())
        licence = licence or self.facts.licence or self._licence
        card = judge_card(repo, sum(parameter.numel() for parameter in self.model.parameters()))
        with tempfile.TemporaryDirectory() as name:
            self.save_pretrained(folder := Path(name) / "judge")
            return upload(folder, repo, card=card, weights=SAVED_WEIGHTS, licence=licence, private=private, token=token)

    def score(
        self,
        prompt: str | Sequence[str],
        images: Sequence[ImageLike],
        *,
        max_tiles: int | None = None,
        task: str | None = None,
    ) -> list[JudgeScore]:
        """Returns the judge's answer for each image, in their order; for no images, none.

        Args:
            prompt: What the images should show, or one prompt per image. Special tokens in it are taken out.
            images: PIL images or paths, of any sizes.
            max_tiles: Most tiles in this call; None is the judge's.
            task: What kind of prompt it is, if judge.json has a calibration for it; None takes the one for all.

        Raises:
            ValueError: An image is damaged or too large, a prompt is too long, there is not one per image, or the task
                has no calibration.
            FloatingPointError: The model computed NaN or infinity.
        """
        prompts = pair_prompts(prompt, images)
        calibration = self.facts.calibration_of(task)
        most = self._most(max_tiles)
        keys = self._keys(prompts, images, most) if self.cache else []
        answers = dict(enumerate(self.cache.find(keys) if self.cache else [None] * len(images)))
        waiting = [index for index, answer in answers.items() if answer is None]
        with tqdm(total=len(waiting), desc="judging", unit="image", delay=1, disable=not self.progress) as bar:
            for batch in self._batches(images, waiting, most):
                fresh = answer_pairs(self.model, self.questions, [prompts[i] for i in batch], list(batch.values()))
                answers |= zip(batch, fresh, strict=True)
                if self.cache:
                    self.cache.keep({keys[i]: answer for i, answer in zip(batch, fresh, strict=True)})
                bar.update(len(batch))
        return [_weigh(answer, calibration) for answer in answers.values() if answer]

    def score_prompts(
        self, prompts: Sequence[str], image: ImageLike, *, max_tiles: int | None = None
    ) -> list[JudgeScore]:
        """Returns the answer to each of several prompts about one image, which is looked at once.

        Equal to `score` with the image repeated, within rounding; raises what it raises. Nothing is cached.
        """
        if isinstance(prompts, str):
            raise TypeError(f"prompts is the string {prompts!r}; it must be several: use score for a single one")
        if not prompts:
            return []
        tiles = cut_tiles(read_image(image), self.model.config, max_tiles=self._most(max_tiles))
        answers = answer_prompts(self.model, self.questions, prompts, tiles)
        return [_weigh(answer, self.facts.calibration) for answer in answers]

    def count_tiles(self, image: ImageLike, *, max_tiles: int | None = None) -> int:
        """Returns how many tiles the judge sees of an image, the thumbnail included."""
        return count_tiles(*read_image(image).size, self.model.config, max_tiles=self._most(max_tiles))

    def _most(self, max_tiles: int | None) -> int:
        return self.max_tiles if max_tiles is None else _cap_tiles(max_tiles, self.model.config.max_tiles)

    def _batches(
        self, images: Sequence[ImageLike], waiting: Iterable[int], max_tiles: int
    ) -> Iterator[dict[int, Tensor]]:
        """Yields tiles of images by their number, at most batch_tiles at a time, opening images only when due."""
        batch: dict[int, Tensor] = {}
        for index in waiting:
            tiles = cut_tiles(read_at(images, index), self.model.config, max_tiles=max_tiles)
            if batch and sum(map(len, batch.values())) + len(tiles) > self.batch_tiles:
                yield batch
                batch = {}
            batch[index] = tiles
        if batch:
            yield batch

    def _keys(self, prompts: Sequence[str], images: Sequence[ImageLike], max_tiles: int) -> list[ScoreKey]:
        dtype = str(self.model.llm.dtype).removeprefix("torch.")
        judge = f"{self._revision} {dtype} tiles={max_tiles} protocol={_PROTOCOL} {self.facts.question}"
        hashes = [hash_image(read_at(images, index)) for index in range(len(images))]
        return [
            ScoreKey(image_hash=image_hash, prompt=prompt, judge=judge)
            for image_hash, prompt in zip(hashes, prompts, strict=True)
        ]


def find_tokenizer(root: Path) -> Path:
    """Returns the folder of a checkpoint's tokenizer, llm/ or its own; raises FileNotFoundError if there is none."""
    for folder in (root / "llm", root):
        if any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            return folder
    raise FileNotFoundError(f"{root} has no tokenizer (llm/tokenizer.json): download the whole checkpoint")


def _cap_tiles(max_tiles: int | None, most: int) -> int:
    if max_tiles is not None and max_tiles < 1:
        raise ValueError(f"max_tiles is {max_tiles}; it must be at least 1")
    return most if max_tiles is None else min(max_tiles, most)


def _weigh(answer: Answer, calibration: Calibration) -> JudgeScore:
    return JudgeScore(
        p_yes=calibration(answer.margin),
        logit_yes=answer.logit_yes,
        logit_no=answer.logit_no,
        log_z=answer.log_z,
        says_yes=answer.says_yes,
        tiles=answer.tiles,
    )
