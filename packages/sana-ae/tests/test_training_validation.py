from dataclasses import replace

import pytest
import torch

from sana_ae.training import (
    LOW_RESOLUTION_FULL,
    AdversarialAutoencoder,
    ReconstructionValidation,
    reconstruction_metrics,
)


def test_rfid_is_measured_where_there_are_features(make_model):
    images = torch.rand(3, 3, 64, 64).mul(255).byte()
    model = AdversarialAutoencoder(make_model(), replace(LOW_RESOLUTION_FULL, resolution=64)).eval()
    measured = ReconstructionValidation(images, features=lambda x: x.mean(dim=(2, 3)))(model)
    assert measured["val/rfid"] > 0


def test_rfid_of_one_image_is_refused_before_training():
    with pytest.raises(ValueError, match=r"rFID of 1 held-out image\(s\) was asked for; give at least two"):
        ReconstructionValidation(torch.zeros(1, 3, 64, 64), features=lambda x: x.mean(dim=(2, 3)))


def test_it_measures_the_reconstructions_of_the_autoencoder(make_model):
    images = torch.rand(3, 3, 64, 64).mul(255).byte()
    model = AdversarialAutoencoder(make_model(), replace(LOW_RESOLUTION_FULL, resolution=64)).eval()
    measured = ReconstructionValidation(images, batch_size=2)(model)
    with torch.no_grad():
        wanted = reconstruction_metrics(model["autoencoder"], images)
    assert measured == {f"val/{name}": pytest.approx(value, rel=1e-5) for name, value in wanted.items()}
