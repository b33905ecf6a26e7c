"""A drawing from a command's options, checked against the model's configuration and this machine; loads no weights."""

from collections.abc import Sequence

from sana.catalog import locate
from sana.choices import DtypeName, Kernels, QuantizationName
from sana.commands.drawing_options import parsed_dtype, parsed_lora, parsed_size
from sana.commands.messages import warn
from sana.devices import usable_device
from sana.hub_absence import suggesting_names
from sana.pipeline_folder import check_components, read_json
from sana.resolution import drawing_size, resolution_bins
from sana.sampler import Drawing
from sana_ae import DCAEConfig


def checked_drawing(
    *,
    model: str,
    revision: str | None,
    lora: Sequence[str] | None,
    size: str | None,
    steps: int | None,
    cfg: float | None,
    negative: str,
    device: str | None,
    dtype: DtypeName | None,
    quantize: QuantizationName | None,
    kernels: Kernels | None,
    offload: bool,
    tile: int | None,
) -> Drawing:
    """The drawing that a command's options describe; warns of a size and of kernels as the two functions below do.

    Raises:
        ValueError: the size cannot be read or drawn, or an adapter is given twice.
    """
    loras = _parsed_loras(lora or ())
    width, height = parsed_size(size)
    warn_of_kernels(kernels, device)
    check_size(model, width, height, revision=revision)
    return Drawing(
        model=model,
        revision=revision,
        steps=steps,
        guidance_scale=cfg,
        negative_prompt=negative,
        height=height,
        width=width,
        device=device,
        dtype=dtype and parsed_dtype(dtype),
        offload=offload,
        tile=tile,
        quantize=quantize,
        kernels=kernels,
        loras=loras,
    )


def _parsed_loras(texts: Sequence[str]) -> tuple[tuple[str, float], ...]:
    loras = tuple(map(parsed_lora, texts))
    sources = [source for source, _ in loras]
    if twice := next((source for source in sources if sources.count(source) > 1), None):
        scales = " and ".join(f"{scale:g}" for source, scale in loras if source == twice)
        raise ValueError(
            f"--lora names {twice} with the scales {scales}: give it once, with their sum if both are meant"
        )
    return loras


def check_size(model: str, width: int | None, height: int | None, *, revision: str | None = None) -> None:
    """Raise ValueError for a size that the model cannot draw, and warn of one that it has never seen."""
    if width is None or height is None:
        return
    source, revision = locate(model, revision)
    check_components(source)
    with suggesting_names(source, revision):
        transformer, autoencoder = (
            read_json(source, f"{name}/config.json", revision) or {} for name in ("transformer", "vae")
        )
    sample_size = transformer.get("sample_size")
    if not isinstance(sample_size, int) or not autoencoder:
        return  # loading says what is wrong with them
    f = DCAEConfig.from_dict(autoencoder, where=f"{source}/vae/config.json").compression
    bins = resolution_bins(sample_size)
    try:
        drawing_size(height, width, bins, f=f, binning=True)
    except ValueError as error:
        raise ValueError(f"--{error}") from error  # it begins with "size is"
    side = sample_size * f
    if bins is None and (width, height) != (side, side):
        warn(f"--size is {width}x{height}, and the model was trained only at {side}x{side}: expect worse images")


def warn_of_kernels(kernels: Kernels | None, device: str | None) -> None:
    """Warn where Triton kernels are asked for and cannot run."""
    if kernels == "fused" and (kind := usable_device(device).type) != "cuda":
        warn(f"--kernels fused has no effect on {kind}: Triton needs a GPU, plain PyTorch is used")
