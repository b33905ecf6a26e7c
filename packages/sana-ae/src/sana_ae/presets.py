"""The published DC-AE checkpoints as configurations, named after them."""

from dataclasses import replace

from sana_ae.config import Activation, BlockType, DCAEConfig, NormType

_WIDTHS = (128, 256, 512, 512, 1024, 1024)
_RES: tuple[BlockType, ...] = ("ResBlock",)
_VIT: tuple[BlockType, ...] = ("EfficientViTBlock",)
_BATCH: tuple[NormType, ...] = ("batch_norm",)
_RMS: tuple[NormType, ...] = ("rms_norm",)
_RELU: tuple[Activation, ...] = ("relu",)
_SILU: tuple[Activation, ...] = ("silu",)


DC_AE_F32C32_SANA = DCAEConfig(
    latent_channels=32,
    encoder_block_types=_RES * 3 + _VIT * 3,
    decoder_block_types=_RES * 3 + _VIT * 3,
    encoder_block_out_channels=_WIDTHS,
    decoder_block_out_channels=_WIDTHS,
    encoder_layers_per_block=(2, 2, 2, 3, 3, 3),
    decoder_layers_per_block=(3, 3, 3, 3, 3, 3),
    encoder_qkv_multiscales=((), (), (), (5,), (5,), (5,)),
    decoder_qkv_multiscales=((), (), (), (5,), (5,), (5,)),
    downsample_block_type="conv",
    upsample_block_type="interpolate",
    decoder_norm_types=_RMS * 6,
    decoder_act_fns=_SILU * 6,
    scaling_factor=0.41407,
)
"""dc-ae-f32c32-sana-1.0: the autoencoder of SANA."""

DC_AE_F32C32_SANA_1_1 = DC_AE_F32C32_SANA
"""dc-ae-f32c32-sana-1.1: shape and encoder of 1.0, a better trained decoder; that of SANA-1.5 and Sprint."""

DC_AE_LITE_F32C32 = replace(
    DC_AE_F32C32_SANA,
    decoder_block_types=_RES * 6,
    decoder_layers_per_block=(0, 3, 5, 4, 4, 4),
    decoder_qkv_multiscales=((),) * 6,
    upsample_block_type="pixel_shuffle",
    decoder_conv_act_fn="silu",
)
"""dc-ae-lite-f32c32-sana-1.1: the sana encoder with a convolutional decoder that stops at half resolution."""


def _imagenet(latent_channels: int, widths: tuple[int, ...], *, scaling_factor: float) -> DCAEConfig:
    stages, deep = len(widths), len(widths) - 3
    return DCAEConfig(
        latent_channels=latent_channels,
        encoder_block_types=_RES * 3 + _VIT * deep,
        decoder_block_types=_RES * 3 + _VIT * deep,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=(0, 4, 8) + (2,) * deep,
        decoder_layers_per_block=(0, 5, 10) + (2,) * deep,
        encoder_qkv_multiscales=((),) * stages,
        decoder_qkv_multiscales=((),) * stages,
        decoder_norm_types=_BATCH * 3 + _RMS * deep,
        decoder_act_fns=_RELU * 3 + _SILU * deep,
        scaling_factor=scaling_factor,
    )


DC_AE_F32C32_IN = _imagenet(32, _WIDTHS, scaling_factor=0.3189)
"""dc-ae-f32c32-in-1.0, trained on ImageNet."""

DC_AE_F32C32_MIX = replace(DC_AE_F32C32_IN, scaling_factor=0.4552)
"""dc-ae-f32c32-mix-1.0, trained on a mixture of data sets."""

DC_AE_F64C128_IN = _imagenet(128, (*_WIDTHS, 2048), scaling_factor=0.2889)
"""dc-ae-f64c128-in-1.0."""

DC_AE_F64C128_MIX = replace(DC_AE_F64C128_IN, scaling_factor=0.4538)
"""dc-ae-f64c128-mix-1.0."""

DC_AE_F64C128 = DC_AE_F64C128_MIX
"""The f64c128 shape with the scale of the general-purpose (mix) checkpoint."""

DC_AE_F128C512_IN = _imagenet(512, (*_WIDTHS, 2048, 2048), scaling_factor=0.4883)
"""dc-ae-f128c512-in-1.0; its latent scale is second-hand, from a description of diffusers' conversion script whose
scales of the other checkpoints are those here. The `config.json` of diffusers' files has it first-hand."""

DC_AE_F128C512_MIX = replace(DC_AE_F128C512_IN, scaling_factor=0.3620)
"""dc-ae-f128c512-mix-1.0; its latent scale is as second-hand."""

DC_AE_F128C512 = DC_AE_F128C512_MIX
"""The f128c512 shape with the scale of the general-purpose (mix) checkpoint."""


def _all_convolutional(widths: tuple[int, ...]) -> DCAEConfig:
    stages = len(widths)
    layers = (0, 5, 10) + (4,) * (stages - 3)
    return DCAEConfig(
        latent_channels=128,
        encoder_block_types=_RES * stages,
        decoder_block_types=_RES * stages,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=layers,
        decoder_layers_per_block=layers,
        encoder_qkv_multiscales=((),) * stages,
        decoder_qkv_multiscales=((),) * stages,
        decoder_norm_types=_RMS * stages,
        decoder_act_fns=_SILU * stages,
        decoder_conv_act_fn="silu",
        encoder_out_shortcut=False,
        decoder_in_shortcut=False,
        adaptive_channels=True,
    )


DC_AE_1_5_F32C128 = _all_convolutional(_WIDTHS)
"""dc-ae-1.5-f32c128: 16 to 128 latent channels from one model; its latent scale is unknown, which 1.0 stands for here
and loading warns of."""

DC_AE_1_5_F64C128 = _all_convolutional((*_WIDTHS, 1024))
"""dc-ae-1.5-f64c128; scale as above."""

PUBLISHED = {
    "dc-ae-f32c32-sana-1.0": DC_AE_F32C32_SANA,
    "dc-ae-f32c32-sana-1.1": DC_AE_F32C32_SANA_1_1,
    "dc-ae-lite-f32c32-sana-1.1": DC_AE_LITE_F32C32,
    "dc-ae-f32c32-in-1.0": DC_AE_F32C32_IN,
    "dc-ae-f32c32-mix-1.0": DC_AE_F32C32_MIX,
    "dc-ae-f64c128-in-1.0": DC_AE_F64C128_IN,
    "dc-ae-f64c128-mix-1.0": DC_AE_F64C128_MIX,
    "dc-ae-f128c512-in-1.0": DC_AE_F128C512_IN,
    "dc-ae-f128c512-mix-1.0": DC_AE_F128C512_MIX,
    "dc-ae-1.5-f32c128": DC_AE_1_5_F32C128,
    "dc-ae-1.5-f64c128": DC_AE_1_5_F64C128,
}
"""By the names the authors published them under, which is all that efficientvit's `config.json` holds."""
