import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from sana_judge import NVILA_LITE_2B, VILAConfig, VILAJudge, VILAModel
from sana_judge.checkpoint_reading import check_weights, read_weights
from sana_judge.vila.weights import expected_weights, rename

PROMPT = "a photo of a red dog"


def released_shapes() -> dict[str, tuple[int, ...]]:
    """Every weight of NVILA-Lite-2B-Verifier, named as in its three folders."""
    shapes = {"llm.model.embed_tokens.weight": (151651, 1536), "llm.model.norm.weight": (1536,)}
    for layer in (f"llm.model.layers.{index}" for index in range(28)):
        shapes |= {f"{layer}.{norm}.weight": (1536,) for norm in ("input_layernorm", "post_attention_layernorm")}
        for name, width in (("q", 1536), ("k", 256), ("v", 256)):
            shapes[f"{layer}.self_attn.{name}_proj.weight"] = (width, 1536)
            shapes[f"{layer}.self_attn.{name}_proj.bias"] = (width,)
        shapes[f"{layer}.self_attn.o_proj.weight"] = (1536, 1536)
        shapes |= {f"{layer}.mlp.{name}_proj.weight": (8960, 1536) for name in ("gate", "up")}
        shapes[f"{layer}.mlp.down_proj.weight"] = (1536, 8960)
    return shapes | tower_shapes("vision_tower.vision_model") | projector_shapes()


def tower_shapes(tower: str) -> dict[str, tuple[int, ...]]:
    shapes = {
        f"{tower}.embeddings.patch_embedding.weight": (1152, 3, 14, 14),
        f"{tower}.embeddings.patch_embedding.bias": (1152,),
        f"{tower}.embeddings.position_embedding.weight": (1024, 1152),
        f"{tower}.post_layernorm.weight": (1152,),
        f"{tower}.post_layernorm.bias": (1152,),
        f"{tower}.head.probe": (1, 1, 1152),
    }
    widths = {"layer_norm1": (1152,), "layer_norm2": (1152,), "mlp.fc1": (4304, 1152), "mlp.fc2": (1152, 4304)}
    widths |= {f"self_attn.{name}_proj": (1152, 1152) for name in ("q", "k", "v", "out")}
    for index in range(27):
        for name, width in widths.items():
            shapes[f"{tower}.encoder.layers.{index}.{name}.weight"] = width
            shapes[f"{tower}.encoder.layers.{index}.{name}.bias"] = width[:1]
    return shapes


def projector_shapes() -> dict[str, tuple[int, ...]]:
    widths = {1: (10368,), 2: (3456, 10368), 4: (3456,), 5: (1536, 3456), 7: (1536, 1536)}
    weights = {f"mm_projector.layers.{index}.weight": width for index, width in widths.items()}
    return weights | {f"mm_projector.layers.{index}.bias": width[:1] for index, width in widths.items()}


@pytest.fixture(scope="module")
def released() -> VILAModel:
    with torch.device("meta"):
        return VILAModel(NVILA_LITE_2B)


@pytest.fixture
def flatten(checkpoint):
    """Makes one file of the three folders, the vision tower's names under another prefix."""

    def write(tower: str):
        weights = read_weights(checkpoint)
        names = [name.replace("vision_tower.vision_model.", tower) for name in weights]
        save_file(dict(zip(names, weights.values(), strict=True)), checkpoint / "model.safetensors")
        for part in ("llm", "vision_tower", "mm_projector"):
            (checkpoint / part / "model.safetensors").unlink()
            (checkpoint / part / "config.json").unlink()
        return checkpoint

    return write


def test_names_and_shapes_are_those_of_the_released_2b_checkpoint(released, tmp_path):
    weights = {name: torch.empty(shape, device="meta") for name, shape in released_shapes().items()}
    check_weights(rename(weights, NVILA_LITE_2B), expected_weights(released), tmp_path)
    # Qwen2.5-1.5B, published with 1,543,714,304 parameters for 151,936 words; its head is its embeddings.
    parameters = sum(parameter.numel() for parameter in released.llm.parameters())
    assert parameters == 1_543_714_304 - (151_936 - 151_651) * 1536


@pytest.mark.parametrize("tower", ["vision_tower.vision_model.", "vision_tower.vision_tower.vision_model."])
def test_one_file_answers_like_three_folders(flatten, tower, judge, images):
    flat = VILAJudge.from_pretrained(flatten(tower), dtype=torch.float32)
    assert flat(PROMPT, images) == judge(PROMPT, images)


def test_one_file_may_have_its_tokenizer_beside_it(flatten, judge, images):
    folder = flatten("vision_tower.vision_model.")
    for path in (folder / "llm").iterdir():
        path.rename(folder / path.name)
    assert VILAJudge.from_pretrained(folder, dtype=torch.float32)(PROMPT, images) == judge(PROMPT, images)


def test_a_head_of_its_own_is_used(checkpoint, edit_json, edit_weights, judge, images):
    edit_json(checkpoint / "llm" / "config.json", tie_word_embeddings=False)
    head = -load_file(checkpoint / "llm" / "model.safetensors")["model.embed_tokens.weight"]
    edit_weights(checkpoint / "llm" / "model.safetensors", lambda weights: weights.update({"lm_head.weight": head}))
    untied = VILAJudge.from_pretrained(checkpoint, dtype=torch.float32).score(PROMPT, images[:1])
    assert untied[0].logit_yes == -judge.score(PROMPT, images[:1])[0].logit_yes


def test_weights_keep_their_dtype_unless_told_otherwise(nvila_tiny):
    for dtype, expected in ((None, torch.float16), (torch.bfloat16, torch.bfloat16)):
        model = VILAJudge.from_pretrained(nvila_tiny, dtype=dtype).model
        assert {parameter.dtype for parameter in model.parameters()} == {expected}
        assert model.llm.model.rotary_emb.inv_freq.dtype == torch.float32


def test_a_loaded_model_equals_one_built_in_place(nvila_tiny):
    config = VILAConfig.read(nvila_tiny)
    built = VILAModel(config)
    built.load_state_dict(rename(read_weights(nvila_tiny), config), strict=False)
    loaded = VILAJudge.from_pretrained(nvila_tiny, dtype=torch.float32).model
    pixels, tokens = torch.randint(256, (2, 3, 112, 112)), [5, 6, 7]
    with torch.no_grad():
        assert torch.equal(built.encode_tiles(pixels), loaded.encode_tiles(pixels))
        states = [model.read([model.embed(tokens)]) for model in (built, loaded)]
        assert torch.equal(built.logits(states[0]), loaded.logits(states[1]))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda weights: weights.pop("layers.7.bias"), "are missing: mm_projector.layers.7.bias"),
        (lambda weights: weights.update(extra=torch.zeros(1)), "are unknown: mm_projector.extra"),
        (lambda weights: weights.update({"layers.7.bias": torch.zeros(3)}), r"bias \(3,\), expected \(64,\)"),
    ],
)
def test_weights_that_do_not_fit_are_named(checkpoint, edit_weights, change, problem):
    edit_weights(checkpoint / "mm_projector" / "model.safetensors", change)
    with pytest.raises(ValueError, match=problem):
        VILAJudge.from_pretrained(checkpoint)


def test_pickles_are_read_without_running_them(checkpoint, judge, images):
    path = checkpoint / "llm" / "pytorch_model.bin"
    weights = load_file(checkpoint / "llm" / "model.safetensors")
    (checkpoint / "llm" / "model.safetensors").unlink()
    torch.save(weights, path)
    assert VILAJudge.from_pretrained(checkpoint, dtype=torch.float32)(PROMPT, images) == judge(PROMPT, images)
    path.write_bytes(pickle.dumps(print, protocol=2))
    with pytest.raises(ValueError, match="could run foreign code"):
        VILAJudge.from_pretrained(checkpoint)
