"""Data: manifests of images, encoded shards, and the order in which they are trained on."""

from sana_train.data.aspect_ratio_buckets import AspectRatioBuckets
from sana_train.data.bad_samples import (
    BadSampleError,
    Reason,
    Skipped,
    TooManyBadSamplesError,
    check_skipped,
    counts_by_reason,
    list_skipped_on_error,
    write_skipped,
)
from sana_train.data.bucket_sampler import BucketSampler
from sana_train.data.caption_sampler import CaptionSampler
from sana_train.data.clip_scorer import CLIPScorer
from sana_train.data.encoding import SKIPPED, EncodingReport, encode_dataset
from sana_train.data.encoding_plan import EncodingSettings
from sana_train.data.image_batches import ImageBatches
from sana_train.data.image_manifest import ImageManifest
from sana_train.data.image_records import ImageRecord
from sana_train.data.indexing import index_folder, source_facts
from sana_train.data.labellers import FORMS, Captioner, CaptionScorer, Form, Rewriter
from sana_train.data.labelling import caption_images, rewrite_captions, score_captions
from sana_train.data.latent_shards import LatentShards
from sana_train.data.shard_encoding import Encoders
from sana_train.data.shard_files import check_content, write_shard
from sana_train.data.transformers_captioner import TransformersCaptioner
from sana_train.data.transformers_rewriter import TransformersRewriter

__all__ = [
    "FORMS",
    "SKIPPED",
    "AspectRatioBuckets",
    "BadSampleError",
    "BucketSampler",
    "CLIPScorer",
    "CaptionSampler",
    "CaptionScorer",
    "Captioner",
    "Encoders",
    "EncodingReport",
    "EncodingSettings",
    "Form",
    "ImageBatches",
    "ImageManifest",
    "ImageRecord",
    "LatentShards",
    "Reason",
    "Rewriter",
    "Skipped",
    "TooManyBadSamplesError",
    "TransformersCaptioner",
    "TransformersRewriter",
    "caption_images",
    "check_content",
    "check_skipped",
    "counts_by_reason",
    "encode_dataset",
    "index_folder",
    "list_skipped_on_error",
    "rewrite_captions",
    "score_captions",
    "source_facts",
    "write_shard",
    "write_skipped",
]
