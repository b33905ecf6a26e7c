"""What is said about images: captions by several models, their scores (SANA), and other wordings (SANA-1.5).

Each pass goes over a manifest in units that any number of processes share and any of them may be killed at, and ends in
a new manifest.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from sana_train.data.bad_samples import BadSampleError, Reason, Skipped, check_skipped
from sana_train.data.batched import batched
from sana_train.data.image_manifest import ImageManifest
from sana_train.data.image_reading import read_image
from sana_train.data.image_records import ImageRecord
from sana_train.data.labellers import FORMS, Captioner, CaptionScorer, Form, Rewriter
from sana_train.data.work_folder import WorkFolder

if TYPE_CHECKING:
    from PIL import Image

UNIT = 256  # images that a process does at a time, and may lose when killed


def caption_images(
    manifest: ImageManifest,
    captioner: Captioner,
    work: str | Path,
    *,
    batch_size: int = 8,
    max_skipped: float = 0.01,
    progress: bool = True,
) -> tuple[ImageManifest, list[Skipped]]:
    """The manifest with one more caption per image, by `captioner`, and the images that got none.

    Args:
        manifest: of the images.
        captioner: writes the captions.
        work: folder that keeps what is done.
        batch_size: images that are captioned together.
        max_skipped: fraction of the images that may be skipped.
        progress: whether to show a progress bar.

    Raises:
        ValueError: `work` was started with another manifest or captioner.
        TooManyBadSamplesError: more had to be skipped.
    """
    source = str(captioner.identity["model"])

    def write(rows: Sequence[int], note: "_Note") -> None:
        for batch in batched(note.readable(rows), batch_size):
            texts = captioner([image for _, image in batch])
            for (row, _), text in zip(batch, texts, strict=True):
                note.text(row, text)

    def added(record: ImageRecord, text: str) -> ImageRecord:
        return _with_caption(record, text, None, source)

    passed = _Pass(manifest, Path(work), {"captioner": dict(captioner.identity)}, max_skipped, progress)
    return passed.over(range(len(manifest)), write, added)


def score_captions(
    manifest: ImageManifest,
    scorer: CaptionScorer,
    work: str | Path,
    *,
    batch_size: int = 8,
    max_skipped: float = 0.01,
    progress: bool = True,
) -> tuple[ImageManifest, list[Skipped]]:
    """The manifest with a score for every caption, all of them new, and the images that could not be scored.

    Those lose the scores that they had: of two models they could not be compared.
    Arguments and errors are those of `caption_images`.
    """

    def write(rows: Sequence[int], note: "_Note") -> None:
        note.results |= {str(row): [None] * len(manifest[row].captions) for row in rows}
        for batch in batched(note.readable(rows), batch_size):
            captions = [manifest[row].captions for row, _ in batch]
            scores = scorer([image for _, image in batch], captions)
            for (row, _), values in zip(batch, scores, strict=True):
                note.results[str(row)] = [float(value) for value in values]

    def scored(record: ImageRecord, scores: list[float | None]) -> ImageRecord:
        return replace(record, scores=tuple(scores))

    passed = _Pass(manifest, Path(work), {"scorer": dict(scorer.identity)}, max_skipped, progress)
    captions = manifest.column("captions")
    return passed.over([row for row in range(len(manifest)) if captions[row]], write, scored)


def rewrite_captions(
    manifest: ImageManifest,
    rewriter: Rewriter,
    work: str | Path,
    *,
    forms: Sequence[Form] = FORMS,
    batch_size: int = 8,
    max_skipped: float = 0.01,
    progress: bool = True,
) -> tuple[ImageManifest, list[Skipped]]:
    """The manifest with each image's best caption also in other forms, and the images where that failed.

    A rewritten caption takes over the score of the one that it says again: CLIP does not read Chinese or emoji well.
    Arguments and errors are those of `caption_images`.
    """
    if unknown := [form for form in forms if form not in FORMS]:
        raise ValueError(f"forms are {list(forms)}; {unknown[0]!r} is not one of {', '.join(FORMS)}")
    source = str(rewriter.identity["model"])

    def write(rows: Sequence[int], note: "_Note") -> None:
        for batch in batched(rows, batch_size):
            texts = [manifest[row].captions[_best(manifest[row])] for row in batch]
            for form in forms:
                for row, text in zip(batch, rewriter(texts, form), strict=True):
                    note.text(row, text, form)

    def added(record: ImageRecord, texts: dict[str, str]) -> ImageRecord:
        score = record.scores[_best(record)]
        for form, text in texts.items():
            record = _with_caption(record, text, score, f"{source}/{form}")
        return record

    what = {"rewriter": dict(rewriter.identity), "forms": list(forms)}
    passed = _Pass(manifest, Path(work), what, max_skipped, progress)
    captions = manifest.column("captions")
    return passed.over([row for row in range(len(manifest)) if captions[row]], write, added)


class _Note:
    """What a unit has found out so far."""

    def __init__(self, manifest: ImageManifest) -> None:
        self.manifest = manifest
        self.results: dict[str, Any] = {}
        self.skipped: list[Skipped] = []

    def readable(self, rows: Sequence[int]) -> "Iterator[tuple[int, Image.Image]]":
        """The rows whose images can be read, with them; one at a time."""
        for row in rows:
            record = self.manifest[row]
            try:
                yield row, read_image(self.manifest.bytes_of(record))
            except BadSampleError as error:
                self.skipped.append(Skipped.of(record.key, error))

    def text(self, row: int, text: str, form: str | None = None) -> None:
        """Note a text that a model wrote, unless there is none."""
        text = " ".join(text.split())
        if not text:
            error = BadSampleError(Reason.NO_CAPTION, "the model wrote nothing" + (f" in {form}" if form else ""))
            self.skipped.append(Skipped.of(self.manifest[row].key, error))
        elif form is None:
            self.results[str(row)] = text
        else:
            self.results.setdefault(str(row), {})[form] = text


class _Pass:
    """Goes over rows of a manifest in units, and puts the results of all units into a new manifest."""

    def __init__(
        self, manifest: ImageManifest, work: Path, what: Mapping[str, Any], max_skipped: float, progress: bool
    ) -> None:
        self.manifest = manifest
        self.work = WorkFolder(work, {"manifest": manifest.sha256, "unit": UNIT, **what})
        self.max_skipped = max_skipped
        self.progress = progress

    def over(
        self,
        rows: Sequence[int],
        write: Callable[[Sequence[int], _Note], None],
        changed: Callable[[ImageRecord, Any], ImageRecord],
    ) -> tuple[ImageManifest, list[Skipped]]:
        """Let `write` note a result for each row, and `changed` make the row's new record from it."""
        units = {f"{start:09d}": rows[start : start + UNIT] for start in range(0, len(rows), UNIT)}
        done, skipped = self._taken_up(units, most=self.max_skipped * len(rows))
        with tqdm(total=len(rows), initial=done, unit="image", disable=not self.progress) as bar:
            for unit in self.work.pending(list(units)):
                note = _Note(self.manifest)
                write(units[unit], note)
                self.work.finish(unit, {"results": note.results, "skipped": [astuple(one) for one in note.skipped]})
                bar.update(len(units[unit]))
                skipped += note.skipped
                check_skipped(skipped, total=len(rows), fraction=self.max_skipped)
        results, skipped = self._together(list(units))
        check_skipped(skipped, total=len(rows), fraction=self.max_skipped)
        records = map(self.manifest.__getitem__, range(len(self.manifest)))
        new = [changed(record, results[row]) if row in results else record for row, record in enumerate(records)]
        return self.manifest.with_records(new), skipped

    def _taken_up(self, units: Mapping[str, Sequence[int]], *, most: float) -> tuple[int, list[Skipped]]:
        """How many rows are done, and what of them was skipped; units that stopped the run are done again."""
        done = [unit for unit in units if self.work.facts(unit) is not None]
        skipped_of = {unit: self._together([unit])[1] for unit in done}
        if sum(map(len, skipped_of.values())) > most:  # the data may have been fixed since
            for unit in [unit for unit in done if skipped_of[unit]]:
                self.work.forget(unit)
                del skipped_of[unit]
        return sum(len(units[unit]) for unit in skipped_of), [one for several in skipped_of.values() for one in several]

    def _together(self, units: Sequence[str]) -> tuple[dict[int, Any], list[Skipped]]:
        results: dict[int, Any] = {}
        skipped: list[Skipped] = []
        for unit in units:
            facts = self.work.facts(unit)
            assert facts is not None
            results |= {int(row): result for row, result in facts["results"].items()}
            skipped += [Skipped(*one) for one in facts["skipped"]]
        return results, skipped


def _with_caption(record: ImageRecord, text: str, score: float | None, source: str) -> ImageRecord:
    captions, scores, sources = (*record.captions, text), (*record.scores, score), (*record.sources, source)
    return replace(record, captions=captions, scores=scores, sources=sources)


def _best(record: ImageRecord) -> int:
    """The caption that fits best; without scores the first one."""
    scores = [float("-inf") if score is None else score for score in record.scores]
    return scores.index(max(scores))
