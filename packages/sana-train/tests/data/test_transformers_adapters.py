"""The adapters on tiny random models, saved and loaded as real ones are."""

import json
from importlib.metadata import version

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizerFast,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from sana_train.data import CLIPScorer, TransformersCaptioner, TransformersRewriter
from sana_train.data.generation import load

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "user", "a", "red", "apple", "two", "cats", "and", "dog", "猫"]
CHAT = (
    "{% for m in messages %}{{ m.role }} {% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %}<image> {% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}{% endfor %} "
)
TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
SIDE = {"height": 32, "width": 32}


def tokenizer(kind=PreTrainedTokenizerFast):
    """Of words; in transformers 4 a processor takes its own `kind` alone, and that a sequence and a normalizer."""
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    words = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", ignore_merges=True))
    words.normalizer = normalizers.BertNormalizer(handle_chinese_chars=False, lowercase=True)
    words.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit()])
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return (PreTrainedTokenizerFast if version("transformers") >= "5" else kind)(
        tokenizer_object=words, **special, additional_special_tokens=["<image>"], model_max_length=20
    )


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def images(make_picture):
    return [make_picture(number, 48, 40).convert("RGB") for number in range(3)]


@pytest.fixture
def llava(tmp_path):
    vision = CLIPVisionConfig(**TINY, image_size=32, patch_size=16)
    text = LlamaConfig(**TINY, vocab_size=len(WORDS), max_position_embeddings=256)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=WORDS.index("<image>"))
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = WORDS.index("</s>")
    model.generation_config.pad_token_id = 0
    model.save_pretrained(tmp_path)
    LlavaProcessor(
        CLIPImageProcessor(size=SIDE, crop_size=SIDE),
        tokenizer(),
        patch_size=16,
        vision_feature_select_strategy="default",
        chat_template=CHAT,
        num_additional_image_tokens=1,
    ).save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def llama(tmp_path):
    model = LlamaForCausalLM(LlamaConfig(**TINY, vocab_size=len(WORDS), max_position_embeddings=256))
    model.generation_config.eos_token_id = WORDS.index("</s>")
    model.save_pretrained(tmp_path)
    words = tokenizer()
    words.chat_template = CHAT
    words.save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def clip(tmp_path):
    text = TINY | {"vocab_size": len(WORDS), "max_position_embeddings": 20, "eos_token_id": 2, "bos_token_id": 1}
    vision = TINY | {"image_size": 32, "patch_size": 16}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(tmp_path)
    CLIPProcessor(CLIPImageProcessor(size=SIDE, crop_size=SIDE), tokenizer(CLIPTokenizerFast)).save_pretrained(tmp_path)
    return tmp_path


def test_a_model_that_chats_captions_each_image_by_itself(llava, images):
    captioner = TransformersCaptioner.from_pretrained(llava, max_new_tokens=6)
    together = captioner(images)
    assert together == [text for image in images for text in captioner([image])]
    assert any(together)
    assert not any("user" in text.split()[:1] or "<image>" in text for text in together)  # the question is left out
    assert captioner.identity["prompt"].startswith("Describe this image in detail")


def test_a_plain_captioner_needs_no_prompt(tmp_path, images):
    text = TINY | {"vocab_size": len(WORDS), "encoder_hidden_size": 16, "bos_token_id": 1, "sep_token_id": 2}
    vision = TINY | {"image_size": 32, "patch_size": 16}
    BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision)).save_pretrained(tmp_path)
    BlipProcessor(BlipImageProcessor(size=SIDE), tokenizer(BertTokenizerFast)).save_pretrained(tmp_path)
    captioner = TransformersCaptioner.from_pretrained(tmp_path, max_new_tokens=5)
    assert captioner.identity == {"model": str(tmp_path), "prompt": None, "max_new_tokens": 5}
    texts = captioner(images)
    assert len(texts) == 3
    assert any(texts)


def test_scores_are_cosines_times_a_hundred(clip, images):
    scorer = CLIPScorer.from_pretrained(clip)
    captions = [["a red apple", "two cats"], [], ["a dog"]]
    scores = scorer(images, captions)
    assert [len(several) for several in scores] == [2, 0, 1]
    inputs = scorer.processor(images=images[0], text=["two cats"], return_tensors="pt")
    with torch.no_grad():
        model = scorer.model.eval()
        expected = (100 * model(**inputs).logits_per_image / model.logit_scale.exp()).item()
    assert scores[0][1] == pytest.approx(expected, abs=1e-3)  # fp32 through one layer, times 100
    assert scorer(images, [[], [], []]) == [[], [], []]


def test_a_caption_longer_than_clip_reads_is_judged_by_its_beginning(clip, images):
    scorer = CLIPScorer.from_pretrained(clip)
    ((long, cut),) = scorer(images[:1], [["two cats and " * 30, " ".join(["two cats and"] * 30)]])
    assert long == pytest.approx(cut)


def test_captions_are_rewritten_in_every_form(llama):
    rewriter = TransformersRewriter.from_pretrained(llama, max_new_tokens=6)
    for form in ("chinese", "mixed", "emoji"):
        together = rewriter(["a red apple", "two cats and a dog and a red apple"], form)
        assert together == [rewriter([text], form)[0] for text in ("a red apple", "two cats and a dog and a red apple")]
        assert not any(text.startswith("user") for text in together)


@pytest.mark.parametrize(("asked", "loaded"), [(None, torch.float16), (torch.bfloat16, torch.bfloat16)])
def test_weights_are_read_in_the_dtype_they_are_kept_in(llama, asked, loaded):
    class Noting(LlamaForCausalLM):
        @classmethod
        def from_pretrained(cls, *arguments, **settings):
            model = super().from_pretrained(*arguments, **settings)
            dtypes.append(model.dtype)
            return model

    dtypes = []
    LlamaForCausalLM.from_pretrained(llama).half().save_pretrained(llama)
    model = load(Noting, llama, revision=None, dtype=asked, device=None)
    assert (*dtypes, model.dtype) == (loaded, loaded)


def test_code_of_a_repository_is_not_run(llama):
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps(config | {"model_type": "x", "auto_map": {"AutoConfig": "evil.C"}}))
    (llama / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ValueError, match=r"trust_remote_code|does not recognize"):
        TransformersRewriter.from_pretrained(llama)


def test_pickled_weights_are_not_loaded(llama):
    (llama / "model.safetensors").unlink()
    torch.save({}, llama / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        TransformersRewriter.from_pretrained(llama)


def test_a_model_of_another_kind_is_refused(llama):
    with pytest.raises(ValueError, match="is a LlamaModel; give a model such as CLIP or SigLIP"):
        CLIPScorer.from_pretrained(llama)
