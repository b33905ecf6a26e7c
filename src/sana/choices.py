"""The words that commands and what they call both take, apart from torch, which takes seconds to import."""

from typing import Literal

DtypeName = Literal["float32", "bfloat16", "float16"]
ExecutorName = Literal["local", "shared-dir", "ray"]
Existing = Literal["refuse", "update", "replace"]
Selector = Literal["importance", "iterative", "leave-one-out", "window", "uniform", "random"]
Kernels = Literal["reference", "fused"]

# As sana_dit and sana_train have them.
QuantizationName = Literal["int8", "nf4"]
InitName = Literal["partial_preservation", "interleaved", "cyclic", "block_replication"]
