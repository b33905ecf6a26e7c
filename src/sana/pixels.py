"""From the decoder's tensors to pictures."""

import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def resize_and_crop(images: Tensor, height: int, width: int) -> Tensor:
    """Scale images (B, C, H, W) until they cover height x width, bilinearly, and cut the centre out."""
    if images.shape[2:] == (height, width):
        return images
    scale = max(height / images.shape[2], width / images.shape[3])
    # int() may fall one pixel short of the side that decided the scale.
    covering = (max(height, int(images.shape[2] * scale)), max(width, int(images.shape[3] * scale)))
    images = F.interpolate(images, size=covering, mode="bilinear", align_corners=False)
    top, left = (covering[0] - height) // 2, (covering[1] - width) // 2
    return images[:, :, top : top + height, left : left + width]


def to_pil(images: Tensor) -> list[Image.Image]:
    """Images (B, 3, H, W) in [-1, 1], clipped -> 8-bit RGB pictures."""
    pixels = ((images / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]
