from dataclasses import replace

import pytest

from sana_judge import NVILA_LITE_2B, VILAConfig


def test_the_released_config_sees_448_pixels_as_121_vectors(nvila_tiny):
    assert (NVILA_LITE_2B.tile_size, NVILA_LITE_2B.tile_tokens) == (448, 121)
    assert (VILAConfig.read(nvila_tiny).tile_size, VILAConfig.read(nvila_tiny).tile_tokens) == (112, 9)


@pytest.mark.parametrize(("select_layer", "layers"), [(-2, 2), (-1, 3), (1, 1)])
def test_features_are_the_states_after_the_selected_layer(checkpoint, edit_json, select_layer, layers):
    edit_json(checkpoint / "config.json", mm_vision_select_layer=select_layer)
    assert VILAConfig.read(checkpoint).vision_layers == layers


def test_the_parts_may_be_described_in_one_file(checkpoint, nvila_tiny):
    for part in ("llm", "vision_tower", "mm_projector"):
        (checkpoint / part / "config.json").unlink()
    flat, split = VILAConfig.read(checkpoint), VILAConfig.read(nvila_tiny)
    assert flat.language.to_dict() == split.language.to_dict()
    assert flat.vision.to_dict() == split.vision.to_dict()


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        ("config.json", "dynamic_s2", True),
        ("config.json", "s2", True),
        ("config.json", "mm_vision_select_feature", "patch"),
        ("config.json", "image_aspect_ratio", "pad"),
        ("mm_projector/config.json", "mm_projector_type", "mlp_downsample"),
    ],
)
def test_other_kinds_of_vila_are_refused_by_name(checkpoint, edit_json, file, field, value):
    edit_json(checkpoint / file, **{field: value})
    with pytest.raises(ValueError, match=f"{field} is {value!r}"):
        VILAConfig.read(checkpoint)


def test_a_field_that_is_no_number_is_named_with_its_file(checkpoint, edit_json):
    edit_json(checkpoint / "config.json", max_tiles="x")
    with pytest.raises(ValueError, match=r"config\.json.*: max_tiles is 'x'; it must be a whole number"):
        VILAConfig.read(checkpoint)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"min_tiles": 3, "max_tiles": 2}, "min_tiles is 3 and max_tiles 2"),
        ({"min_tiles": 0}, "min_tiles is 0"),
        ({"vision_layers": 28}, "vision_layers is 28; it must be from 1 to the 27"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(fields, problem):
    with pytest.raises(ValueError, match=problem):
        replace(NVILA_LITE_2B, **fields)
