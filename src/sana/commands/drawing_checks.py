"""What the configuration of a model and this machine say of a drawing, before weights are loaded."""

from sana.catalog import locate
from sana.commands.messages import warn
from sana.devices import usable_device
from sana.hub_absence import absence_explained
from sana.kernels import Kernels
from sana.pipeline_folder import check_components, read_json
from sana.resolution import drawing_size, resolution_bins
from sana_ae import DCAEConfig


def check_size(model: str, width: int | None, height: int | None, *, revision: str | None = None) -> None:
    """Raise ValueError for a size that the model cannot draw, and warn of one that it has never seen."""
    if width is None or height is None:
        return
    place, revision = locate(model, revision)
    check_components(place)
    with absence_explained(place, revision):
        transformer, autoencoder = (
            read_json(place, f"{name}/config.json", revision) or {} for name in ("transformer", "vae")
        )
    sample_size = transformer.get("sample_size")
    if not isinstance(sample_size, int) or not autoencoder:
        return  # loading says what is wrong with them
    f = DCAEConfig.from_dict(autoencoder, where=f"{place}/vae/config.json").compression
    bins = resolution_bins(sample_size)
    try:
        drawing_size(height, width, bins, f=f, binning=True)
    except ValueError as error:
        raise ValueError(f"--{error}") from error  # it begins with "size is"
    side = sample_size * f
    if bins is None and (width, height) != (side, side):
        warn(f"--size is {width}x{height}, and the model was trained at {side}x{side} alone: expect worse pictures")


def warn_of_kernels(kernels: Kernels | None, device: str | None) -> None:
    """Warn where Triton kernels are asked for and cannot run."""
    if kernels == "fused" and (kind := usable_device(device).type) != "cuda":
        warn(f"--kernels fused has no effect on {kind}: Triton needs a GPU, plain PyTorch is used")
