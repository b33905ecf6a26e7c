"""State dicts under other names: diffusers' `AutoencoderDC` and mit-han-lab's efficientvit."""

import re
from collections.abc import Mapping

import torch

Tensors = dict[str, torch.Tensor]

# efficientvit -> ours, in this order. Its containers (`main`, `op_list`) and its ConvLayer (`.conv`) are levels of
# names there; of the two `.conv` of a resampling one stays.
_FROM_EFFICIENTVIT = [
    (r"\.(main|op_list)\b", ""),
    (r"^encoder\.stages\.", "encoder.down_blocks."),
    (r"^decoder\.stages\.", "decoder.up_blocks."),
    (r"^encoder\.project_in\.conv\b", "encoder.conv_in"),
    (r"^encoder\.project_out\.0\.conv\b", "encoder.conv_out"),
    (r"^decoder\.project_in\.conv\b", "decoder.conv_in"),
    (r"^decoder\.project_out\.0\.", "decoder.norm_out."),
    (r"^decoder\.project_out\.2\.conv\b", "decoder.conv_out"),
    (r"\.conv\.conv\.", ".conv."),
    (r"\.(conv[12])\.conv\.", r".\1."),
    (r"\.(conv2|point_conv)\.norm\.", ".norm."),
    (r"\.(inverted|depth|point)_conv\.conv\.", r".conv_\1."),
    (r"\.context_module\.", ".attn."),
    (r"\.local_module\.", ".conv_out."),
    (r"\.qkv\.conv\.", ".to_qkv."),
    (r"\.aggreg\.(\d+)\.0\.", r".to_qkv_multiscale.\1.proj_in."),
    (r"\.aggreg\.(\d+)\.1\.", r".to_qkv_multiscale.\1.proj_out."),
    (r"\.proj\.conv\.", ".to_out."),
    (r"\.proj\.norm\.", ".norm_out."),
]


def to_ours(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Rename a state dict of diffusers, of efficientvit, or of this package to the names of this package."""
    if any(".op_list." in name for name in tensors):
        return from_efficientvit(tensors)
    return from_diffusers(tensors)


def from_diffusers(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Join each `to_q`, `to_k`, `to_v` into one `to_qkv`; all other names are the same.

    Despite their names they are not queries, keys and values, only the first, second and last third of rows that are
    interleaved by head. Thirds that do not fit together stay as they are.
    """
    ours = dict(tensors)
    for name in tensors:
        thirds = [name.replace(".to_q.", f".to_{letter}.") for letter in "qkv"]
        if not name.endswith(".to_q.weight") or not all(third in ours for third in thirds):
            continue
        if len({ours[third].shape for third in thirds}) == 1:
            ours[name.replace(".to_q.", ".to_qkv.")] = torch.cat([ours.pop(third) for third in thirds])
    return ours


def to_diffusers(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """The inverse of `from_diffusers`."""
    theirs: Tensors = {}
    for name, tensor in tensors.items():
        if name.endswith(".to_qkv.weight"):
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                theirs[name.replace(".to_qkv.", f".to_{letter}.")] = third
        else:
            theirs[name] = tensor
    return theirs


def from_efficientvit(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Rename the modules of efficientvit's `DCAE`; its 1x1 convolutions around attention become linear layers."""
    ours = {}
    for name, tensor in tensors.items():
        for pattern, replacement in _FROM_EFFICIENTVIT:
            name = re.sub(pattern, replacement, name)
        linear = name.endswith((".to_qkv.weight", ".to_out.weight"))
        ours[name] = tensor.flatten(1) if linear else tensor
    return ours
