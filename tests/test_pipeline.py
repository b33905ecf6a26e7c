import json
import shutil

import accelerate
import numpy as np
import pytest
import torch
from diffusers import SanaPipeline as DiffusersPipeline
from diffusers import SanaSprintPipeline
from safetensors.torch import load_file, save_file

import sana_ae.ops.implementation
import sana_dit.ops.implementation
from sana import PipelineFacts, SanaPipeline
from sana.catalog import CHECKPOINTS
from sana.pipeline_parts import published_dtype
from sana.prompts import pair
from sana_ae import DCAE
from sana_dit import CaptionEncoder, SanaTransformer


@pytest.fixture(scope="module")
def pipeline(small_folder):
    return SanaPipeline.from_pretrained(small_folder, device="cpu")


def draw_with_diffusers(folder, prompt, seed, cls=DiffusersPipeline, **settings):
    pipeline = cls.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(seed)
    latents = pipeline(prompt, generator=generator, output_type="latent", **settings).images
    generator = torch.Generator("cpu").manual_seed(seed)
    (image,) = pipeline(prompt, generator=generator, **settings).images
    return latents, np.asarray(image).astype(int)


def draw_latents(pipeline, prompt, seed, *, steps, scale, negative=""):
    drawn, _ = pipeline.sizes(None, None)
    captions, negatives = pipeline.encode([prompt], negative_prompt=negative, guidance_scale=scale)
    return pipeline.denoise(captions, negatives, [seed], size=drawn, steps=steps, guidance_scale=scale)


@pytest.mark.parametrize("negative", ["", "a dog"])
def test_latents_and_pixels_are_those_of_diffusers(diffusers_folder, negative):
    ours = SanaPipeline.from_pretrained(diffusers_folder, device="cpu")
    latents, pixels = draw_with_diffusers(
        diffusers_folder, "A red apple", 7, num_inference_steps=6, negative_prompt=negative, height=512, width=512
    )
    mine = draw_latents(ours, "A red apple", 7, steps=6, scale=4.5, negative=negative)
    assert (mine - latents).abs().max() <= 1e-4 * latents.abs().max()
    (image,) = ours("A red apple", [7], steps=6, negative_prompt=negative, progress=False)
    assert np.abs(np.asarray(image).astype(int) - pixels).max() <= 1


def test_a_size_between_bins_is_drawn_as_diffusers_draws_it(diffusers_folder):
    ours = SanaPipeline.from_pretrained(diffusers_folder, device="cpu")
    _, pixels = draw_with_diffusers(diffusers_folder, "a cat", 3, num_inference_steps=2, height=300, width=420)
    (image,) = ours("a cat", [3], steps=2, height=300, width=420, progress=False)
    assert image.size == (420, 300)
    assert np.abs(np.asarray(image).astype(int) - pixels).max() <= 1


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_sprint_latents_are_those_of_diffusers(sprint_folder, steps):
    ours = SanaPipeline.from_pretrained(sprint_folder, device="cpu")
    generator = torch.Generator("cpu").manual_seed(5)
    theirs = SanaSprintPipeline.from_pretrained(sprint_folder)
    theirs.set_progress_bar_config(disable=True)
    extra = {} if steps == 2 else {"intermediate_timesteps": None}
    latents = theirs("a cat", generator=generator, output_type="latent", num_inference_steps=steps, **extra).images
    mine = draw_latents(ours, "a cat", 5, steps=steps, scale=4.5)
    assert (mine - latents).abs().max() <= 1e-4 * latents.abs().max()


def test_a_saved_pipeline_gives_the_same_picture_here_and_in_diffusers(pipeline, small_folder, tmp_path):
    pipeline.save_pretrained(tmp_path / "saved")
    (before,) = pipeline("a dog", [1], steps=3, progress=False)
    (after,) = SanaPipeline.from_pretrained(tmp_path / "saved", device="cpu")("a dog", [1], steps=3, progress=False)
    assert np.array_equal(before, after)
    settings = {"num_inference_steps": 3, "height": 64, "width": 64, "use_resolution_binning": False}
    _, pixels = draw_with_diffusers(tmp_path / "saved", "a dog", 1, **settings)
    assert np.abs(np.asarray(before).astype(int) - pixels).max() <= 1


def test_a_seed_names_its_picture_whatever_else_is_drawn(pipeline):
    alone = pipeline("a cat", [3], steps=2, progress=False)[0]
    among = pipeline(["a dog", "a cat", ""], [0, 3, 3], steps=2, progress=False)[1]
    chunked = pipeline("a cat", [1, 2, 3], steps=2, batch_size=2, progress=False)[2]
    assert np.array_equal(alone, chunked)
    # Another batch shape may round differently: at most one level of 255.
    assert np.abs(np.asarray(alone).astype(int) - np.asarray(among)).max() <= 1


def test_captions_are_read_again_only_for_other_prompts_or_another_number(small_folder):
    class Noting(SanaPipeline):
        def velocity(self, captions, negative, *, guidance_scale):
            read.append(len(captions.mask))
            return super().velocity(captions, negative, guidance_scale=guidance_scale)

    pipeline, read = Noting.from_pretrained(small_folder, device="cpu"), []
    pictures = pipeline("a cat", range(7), steps=2, batch_size=2, progress=False)
    assert read == [2, 1]
    alone = pipeline("a cat", [4, 5], steps=2, progress=False)  # the same batch shape: the same bits
    assert pictures[4:6] == alone
    read.clear()
    pipeline(["a cat"] * 4 + ["a dog"] * 2, range(6), steps=1, batch_size=2, progress=False)
    assert read == [2, 2]


def test_prompts_and_seeds_pair_as_promised():
    assert pair("a", [1, 2]) == (["a", "a"], [1, 2])
    assert pair(["a", "b"], [1, 2]) == (["a", "b"], [1, 2])
    assert pair(["a", "b"], None) == (["a", "b"], [0, 0])
    assert pair("", None) == ([""], [0])


@pytest.mark.parametrize(
    ("prompts", "seeds", "message"),
    [
        ([], None, "no prompts were given"),
        (["a", "b"], [1], "2 prompts and 1 seeds"),
        (["a"], [1, 2], "1 prompts and 2 seeds"),
        ("a", [], "0 seeds"),
        ("a", [1.5], "a seed is 1.5"),
        ("a", [-1], "a seed is -1"),
        ([None], None, "a prompt is None"),
        (["\udce4"], None, "is not Unicode"),
    ],
)
def test_wrong_pairs_are_refused(prompts, seeds, message):
    with pytest.raises(ValueError, match=message):
        pair(prompts, seeds)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"height": 65}, "positive multiples of 32: try 64x64"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"guidance_scale": float("inf")}, "guidance_scale is inf"),
        ({"width": 0, "height": -32}, "must be positive"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"steps": -3}, "steps is -3"),
        ({"noise": torch.zeros(1, 8, 2, 2, dtype=torch.int32)}, "noise is torch.int32; it must be a tensor of floats"),
        ({"noise": torch.full((1, 8, 2, 2), torch.nan)}, "noise has NaN or infinite values"),
        ({"noise": torch.zeros(2, 8, 2, 2)}, r"noise has the shape \(2, 8, 2, 2\); it must be \(1, 8, 2, 2\)"),
    ],
)
def test_bad_settings_are_refused(pipeline, settings, message):
    with pytest.raises(ValueError, match=message):
        pipeline("a cat", progress=False, **settings)


def test_noise_and_steps_are_those_of_diffusers(small_folder, pipeline):
    noise, theirs, ours = torch.randn(3, 8, 2, 2, generator=torch.Generator().manual_seed(0)), [], []
    reference = DiffusersPipeline.from_pretrained(small_folder)
    reference.set_progress_bar_config(disable=True)
    images = reference(
        "a cat", num_images_per_prompt=3, latents=noise.clone(), num_inference_steps=3, height=64, width=64,
        use_resolution_binning=False, callback_on_step_end=lambda _, step, __, seen: theirs.append(step) or seen,
    ).images  # fmt: skip
    mine = pipeline(
        "a cat", range(3), steps=3, batch_size=2, noise=noise, progress=False,
        on_step=lambda step, x0: ours.append((step, tuple(x0.shape))),
    )  # fmt: skip
    assert theirs == [0, 1, 2]
    assert ours == [(step, (count, 8, 2, 2)) for count in (2, 1) for step in theirs]
    for image, wanted in zip(mine, images, strict=True):
        # Float32 rounds differently in the two; one level of 255 is where a value lies on the edge between two.
        assert np.abs(np.asarray(image).astype(int) - np.asarray(wanted)).max() <= 1


def test_sprint_takes_noise_as_diffusers_does(sprint_folder):
    noise = torch.randn(1, 8, 32, 32, generator=torch.Generator().manual_seed(9))
    reference = SanaSprintPipeline.from_pretrained(sprint_folder)
    reference.set_progress_bar_config(disable=True)
    (wanted,) = reference(
        "a cat", latents=noise.clone(), num_inference_steps=2, generator=torch.Generator().manual_seed(5)
    ).images
    (image,) = SanaPipeline.from_pretrained(sprint_folder, device="cpu")("a cat", [5], noise=noise, progress=False)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(wanted)).max() <= 1


def test_a_transformer_that_accelerate_offloads_draws_the_same(small_folder, pipeline):
    offloaded = SanaPipeline.from_pretrained(small_folder, device="cpu")
    accelerate.cpu_offload(offloaded.transformer, execution_device=torch.device("cpu"))
    assert offloaded.transformer.final.proj.weight.is_meta
    assert offloaded.device == torch.device("cpu")
    (expected,) = pipeline("a cat", steps=2, progress=False)
    assert np.array_equal(offloaded("a cat", steps=2, progress=False)[0], expected)


def test_a_size_outside_the_bins_is_refused_when_binning_is_off(diffusers_folder):
    pipeline = SanaPipeline.from_pretrained(diffusers_folder, device="cpu")
    with pytest.raises(ValueError, match="use 512x512, the nearest"):
        pipeline.sizes(480, 480, binning=False)
    assert pipeline.sizes(480, 512, binning=False) == ((480, 512), (480, 512))


def test_sprint_refuses_a_negative_prompt(sprint_folder):
    with pytest.raises(ValueError, match="Sprint"):
        SanaPipeline.from_pretrained(sprint_folder, device="cpu")("a cat", negative_prompt="a dog", progress=False)


def test_unknown_models_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model .nowhere.: give a pipeline folder"):
        SanaPipeline.from_pretrained("nowhere")
    with pytest.raises(FileNotFoundError, match="lacks model_index"):
        SanaPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("component", ["vae", "transformer", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_component_is_named(small_folder, tmp_path, component):
    folder = shutil.copytree(small_folder, tmp_path / "broken")
    shutil.rmtree(folder / component)
    with pytest.raises(FileNotFoundError, match=f"lacks {component}"):
        SanaPipeline.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize(
    ("component", "stage"),
    [("transformer", "transformer has NaN"), ("vae", "autoencoder"), ("text_encoder", "caption")],
)
def test_nan_weights_are_reported_with_their_stage(small_folder, tmp_path, component, stage):
    folder = shutil.copytree(small_folder, tmp_path / "broken")
    (path,) = (folder / component).glob("*.safetensors")
    weights = load_file(path)
    name = sorted(weights)[0]  # of the autoencoder, one in the decoder
    weights[name] = torch.full_like(weights[name], float("nan"))
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(FloatingPointError, match=stage):
        SanaPipeline.from_pretrained(folder, device="cpu")("a cat", steps=2, progress=False)


def test_a_foreign_scheduler_is_refused(small_folder, tmp_path):
    folder = shutil.copytree(small_folder, tmp_path / "broken")
    (folder / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "PNDMScheduler"}')
    with pytest.raises(ValueError, match="is PNDMScheduler; it must be a DPMSolverMultistepScheduler"):
        SanaPipeline.from_pretrained(folder, device="cpu")


def test_a_file_is_told_from_a_pipeline_and_can_be_composed_into_one(small_folder, pipeline):
    (file,) = (small_folder / "transformer").glob("*.safetensors")
    with pytest.raises(ValueError, match="is a file; a pipeline is a folder") as error:
        SanaPipeline.from_pretrained(file)
    composition = str(error.value).partition("pipeline: ")[2]
    names = {"SanaPipeline": SanaPipeline, "CaptionEncoder": CaptionEncoder, "SanaTransformer": SanaTransformer}
    composed = eval(composition, names | {"DCAE": DCAE, "pipeline": small_folder})
    (expected,) = pipeline("a cat", steps=2, progress=False)
    assert np.array_equal(composed("a cat", steps=2, progress=False)[0], expected)


@pytest.mark.parametrize("part", ["model_index.json", "scheduler", "transformer"])
def test_a_part_of_sprint_in_another_pipeline_is_refused(small_folder, sprint_folder, tmp_path, part):
    folder = shutil.copytree(small_folder, tmp_path / "mixed")
    for source in [sprint_folder / part] if (sprint_folder / part).is_file() else (sprint_folder / part).iterdir():
        shutil.copy(source, folder / source.relative_to(sprint_folder))
    with pytest.raises(ValueError, match="mixes SANA and SANA-Sprint"):
        SanaPipeline.from_pretrained(folder, device="cpu")


def test_a_pipeline_of_two_precisions_is_read_in_its_half_for_a_gpu(small_folder, tmp_path):
    reference = DiffusersPipeline.from_pretrained(small_folder)
    reference.save_pretrained(tmp_path)
    assert published_dtype(tmp_path) is None
    reference.transformer.half().save_pretrained(tmp_path / "transformer", variant="fp16")
    for device, dtype in (("meta", torch.float16), ("cpu", torch.float32)):  # meta: as a GPU, and without weights
        loaded = SanaPipeline.from_pretrained(tmp_path, device=device)
        assert next(loaded.transformer.parameters()).dtype == dtype
    reference.transformer.bfloat16().save_pretrained(tmp_path / "transformer", variant="bf16", max_shard_size="20KB")
    assert published_dtype(tmp_path) is None  # two halves: nothing tells which it was trained in


def test_a_public_checkpoint_is_read_in_the_dtype_of_the_catalog():
    dtypes = {c.name: published_dtype(c.repository) for c in CHECKPOINTS}
    assert dtypes["sana-1.6b-1024-fp16"] == torch.float16
    assert dtypes["sana-1.5-4.8b-1024"] == torch.bfloat16
    assert {name: str(dtype) for name, dtype in dtypes.items()} == {c.name: f"torch.{c.dtype}" for c in CHECKPOINTS}


def test_half_precision_draws_nearly_the_same(small_folder, pipeline):
    (full,) = pipeline("a cat", [2], steps=2, progress=False)
    (half,) = SanaPipeline.from_pretrained(small_folder, device="cpu", dtype=torch.bfloat16)(
        "a cat", [2], steps=2, progress=False
    )
    # bf16 keeps 8 bits: a few levels of 255 on average, as the two references differ from each other.
    assert np.abs(np.asarray(full).astype(int) - np.asarray(half)).mean() < 8


def test_offloading_changes_no_pixel(small_folder, pipeline):
    offloaded = SanaPipeline.from_pretrained(small_folder, device="cpu", offload=True)
    assert np.array_equal(offloaded("a cat", steps=2, progress=False)[0], pipeline("a cat", steps=2, progress=False)[0])


def test_tiles_change_no_picture_and_bound_what_is_decoded_at_once(small_folder, pipeline):
    tiled = SanaPipeline.from_pretrained(small_folder, device="cpu", tile=64)
    sides = []
    tiled.autoencoder.decoder.conv_out.register_forward_hook(lambda _, __, image: sides.append(max(image.shape[-2:])))
    settings = {"steps": 1, "height": 128, "width": 192, "progress": False}
    whole, pieces = (np.asarray(p("a cat", [2], **settings)[0]).astype(int) for p in (pipeline, tiled))
    assert len(sides) == 2 * 3
    assert max(sides) < 128  # a tile and its margin
    # Sums over tiles round otherwise by about 1e-6: a value of 255 flips where it was that near to a half.
    assert np.abs(whole - pieces).max() <= 1
    assert (whole != pieces).mean() < 1e-3
    with pytest.raises(ValueError, match="tile is 48 pixels; it must be a multiple of 32"):
        SanaPipeline.from_pretrained(small_folder, device="cpu", tile=48)


def test_large_pictures_are_decoded_one_at_a_time(small_folder):
    own = SanaPipeline.from_pretrained(small_folder, device="cpu")
    batches = []
    own.autoencoder.decoder.register_forward_hook(lambda _, __, images: batches.append(len(images)))
    latents = torch.randn(2, 8, 1, 33, generator=torch.Generator().manual_seed(0))
    large, small = own.decode(latents), own.decode(latents[..., :32])
    assert (large.shape, small.shape) == ((2, 3, 32, 1056), (2, 3, 32, 1024))
    assert batches == [1, 1, 2]
    assert torch.equal(large[1:], own.decode(latents[1:]))


def rewrite(path, **changes):
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | changes))


def test_flow_shift_and_defaults_are_the_checkpoints_own(small_folder, pipeline, tmp_path):
    folder = shutil.copytree(small_folder, tmp_path / "own")
    rewrite(folder / "scheduler" / "scheduler_config.json", flow_shift=6.0)
    rewrite(folder / "sana.json", pipeline={"steps": 3, "guidance_scale": 2.0})
    own = SanaPipeline.from_pretrained(folder, device="cpu")
    own.save_pretrained(tmp_path / "again")
    again = SanaPipeline.from_pretrained(tmp_path / "again", device="cpu")
    assert again.facts == own.facts == PipelineFacts(flow_shift=6.0, steps=3, guidance_scale=2.0)
    (expected,) = own("a cat", steps=3, guidance_scale=2.0, progress=False)
    assert np.array_equal(again("a cat", progress=False)[0], expected)
    (other_shift,) = pipeline("a cat", steps=3, guidance_scale=2.0, progress=False)
    assert not np.array_equal(other_shift, expected)


def test_a_null_caption_stands_for_the_empty_negative_prompt(small_folder, pipeline):
    other = SanaPipeline.from_pretrained(small_folder, device="cpu")
    other.transformer.null_caption = torch.ones(300, other.transformer.config.caption_channels)
    (with_null,) = other("a cat", steps=2, progress=False)
    (without,) = pipeline("a cat", steps=2, progress=False)
    assert not np.array_equal(with_null, without)
    (negative,) = other("a cat", steps=2, negative_prompt="a dog", progress=False)
    assert np.array_equal(negative, pipeline("a cat", steps=2, negative_prompt="a dog", progress=False)[0])


def test_a_black_picture_is_a_picture_except_where_it_tells_of_overflow(small_folder):
    black = SanaPipeline.from_pretrained(small_folder, device="cpu")
    with torch.no_grad():
        black.autoencoder.decoder.conv_out.weight.zero_()
        black.autoencoder.decoder.conv_out.bias.fill_(-2)
    (picture,) = black("a cat", steps=1, progress=False)
    assert not np.asarray(picture).any()
    black.autoencoder.half()
    with pytest.raises(FloatingPointError, match=r"black image in torch\.float16: decode in fp32 or bf16"):
        black("a cat", steps=1, progress=False)


def test_float16_keeps_caption_encoder_and_autoencoder_out_of_float16(small_folder):
    half = SanaPipeline.from_pretrained(small_folder, device="cpu", dtype=torch.float16)
    dtypes = [next(part.parameters()).dtype for part in (half.transformer, half.autoencoder)]
    assert dtypes == [torch.float16, torch.bfloat16]
    assert next(half.caption_encoder.text_encoder.parameters()).dtype == torch.bfloat16


def test_pictures_are_handed_over_as_they_are_finished(pipeline):
    seen = []
    images = pipeline(
        "a cat", range(3), steps=1, batch_size=2, on_image=lambda *pair: seen.append(pair), progress=False
    )
    assert seen == list(enumerate(images))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model_index.json", {"_class_name": "FluxPipeline"}, "that of a FluxPipeline"),
        ("sana.json", {"pipeline": {"guidance_scale": None}}, "guidance_scale is None"),
        ("sana.json", {"pipeline": {"steps": 0}}, "steps is 0"),
        ("scheduler/scheduler_config.json", [], "holds a list"),
    ],
)
def test_odd_facts_are_named(small_folder, tmp_path, name, content, message):
    folder = shutil.copytree(small_folder, tmp_path / "odd")
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        SanaPipeline.from_pretrained(folder, device="cpu")


def test_a_save_that_fails_leaves_no_pipeline_behind(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    shutil.rmtree(tmp_path / "vae")
    (tmp_path / "vae").write_text("a file where a folder has to be")
    with pytest.raises(OSError, match="vae"):
        pipeline.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="lacks model_index"):
        SanaPipeline.from_pretrained(tmp_path, device="cpu")


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_quantised_pipeline_draws_about_the_same_latents_and_is_not_saved(small_folder, pipeline, tmp_path, kind):
    quantised = SanaPipeline.from_pretrained(small_folder, device="cpu", quantize=kind)
    exact, latents = (draw_latents(p, "a cat", 3, steps=3, scale=2.0) for p in (pipeline, quantised))
    assert 0 < (latents - exact).norm() < 0.2 * exact.norm()
    with pytest.raises(ValueError, match="quantised"):
        quantised.save_pretrained(tmp_path / "saved")


def test_a_caption_is_kept_once_however_many_pictures_it_has(pipeline, monkeypatch):
    kept, encode = [], pipeline.encode

    def look(*arguments, **settings):
        kept.append(encode(*arguments, **settings))
        return kept[-1]

    monkeypatch.setattr(pipeline, "encode", look)
    prompts = ["a cat", "a dog", "a cat", "a cat"]
    drawn = pipeline(prompts, range(4), steps=1, batch_size=2, progress=False)
    assert len(kept[0][0].embeddings) == 2
    alone = pipeline("a dog", [1], steps=1, progress=False)[0]
    assert np.abs(np.asarray(drawn[1]).astype(int) - np.asarray(alone)).max() <= 1  # another batch shape


def test_an_encoder_that_fails_goes_back_to_cpu_memory(small_folder, monkeypatch):
    offloaded, places = SanaPipeline.from_pretrained(small_folder, device="cpu", offload=True), []
    monkeypatch.setattr(offloaded.caption_encoder, "to", places.append)

    def fail(*_):
        raise torch.OutOfMemoryError

    offloaded.caption_encoder.text_encoder.register_forward_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        offloaded("a cat", progress=False)
    assert places == [offloaded.device, "cpu"]


def test_the_embedded_model_runs_in_fp32_wherever_it_is(pipeline):
    assert next(SanaPipeline.from_pretrained("embedded", device="cpu").transformer.parameters()).dtype == torch.float32
    assert next(pipeline.transformer.parameters()).dtype == torch.float32  # the folder's own


def test_a_pipeline_has_cuda_graphs_on_a_gpu_only(pipeline):
    captions, negative = pipeline.encode(["a cat"], guidance_scale=2.0)
    assert pipeline.cuda_graph
    assert pipeline._step_graphs() is None
    assert pipeline.velocity(captions, negative, guidance_scale=2.0)


def test_kernels_are_switched_on_for_drawing_and_off_again(small_folder, pipeline, monkeypatch):
    fused, seen = SanaPipeline.from_pretrained(small_folder, device="cpu", kernels="fused"), []

    def look(*_):
        seen.append((sana_dit.ops.implementation.selected(), sana_ae.ops.implementation.selected()))

    fused.transformer.blocks[0].self_attn.register_forward_hook(look)
    fused.autoencoder.decoder.register_forward_hook(look)
    drawn = fused("a cat", steps=1, progress=False)
    fused.previewing("a cat", [0], at=[0.5], keep=lambda pictures: look() or [0], steps=2)
    assert set(seen[:2]) == {("fused", "fused")}
    look()
    assert seen[-1] == ("reference", "reference")
    assert np.array_equal(drawn[0], pipeline("a cat", steps=1, progress=False)[0])  # here, where neither can run
    with pytest.raises(FloatingPointError):
        fused.follow(lambda x, t: x * torch.nan, [0], size=(64, 64), steps=1)
    look()
    assert seen[-1] == ("reference", "reference")


@pytest.mark.parametrize(
    ("kernels", "around", "inside"),
    [(None, "fused", "fused"), ("reference", "fused", "reference"), ("fused", "reference", "fused")],
)
def test_a_switch_around_a_pipeline_holds_unless_it_has_kernels_of_its_own(small_folder, kernels, around, inside):
    pipeline, seen = SanaPipeline.from_pretrained(small_folder, device="cpu", kernels=kernels), []
    parts = (pipeline.transformer.blocks[0].self_attn, sana_dit.ops), (pipeline.autoencoder.decoder, sana_ae.ops)
    for part, ops in parts:
        part.register_forward_hook(lambda *_, ops=ops: seen.append(ops.implementation.selected()))
    with sana_dit.ops.use(around), sana_ae.ops.use(around):
        pipeline("a cat", steps=1, progress=False)
    assert seen == [inside, inside]


def test_unknown_kernels_are_refused(pipeline):
    with pytest.raises(ValueError, match="kernels is 'triton'; it must be 'reference' or 'fused'"):
        SanaPipeline(pipeline.caption_encoder, pipeline.transformer, pipeline.autoencoder, kernels="triton")
