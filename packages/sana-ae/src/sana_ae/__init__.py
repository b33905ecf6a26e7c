"""DC-AE, the deep-compression autoencoder of SANA."""

from importlib.metadata import version

from sana_ae.autoencoder import DCAE
from sana_ae.config import DCAEConfig
from sana_ae.presets import (
    DC_AE_1_5_F32C128,
    DC_AE_1_5_F64C128,
    DC_AE_F32C32_IN,
    DC_AE_F32C32_MIX,
    DC_AE_F32C32_SANA,
    DC_AE_F32C32_SANA_1_1,
    DC_AE_F64C128,
    DC_AE_F64C128_IN,
    DC_AE_F64C128_MIX,
    DC_AE_F128C512,
    DC_AE_F128C512_IN,
    DC_AE_F128C512_MIX,
    DC_AE_LITE_F32C32,
)

__version__ = version("sana-ae")

__all__ = [
    "DCAE",
    "DC_AE_1_5_F32C128",
    "DC_AE_1_5_F64C128",
    "DC_AE_F32C32_IN",
    "DC_AE_F32C32_MIX",
    "DC_AE_F32C32_SANA",
    "DC_AE_F32C32_SANA_1_1",
    "DC_AE_F64C128",
    "DC_AE_F64C128_IN",
    "DC_AE_F64C128_MIX",
    "DC_AE_F128C512",
    "DC_AE_F128C512_IN",
    "DC_AE_F128C512_MIX",
    "DC_AE_LITE_F32C32",
    "DCAEConfig",
    "__version__",
]
