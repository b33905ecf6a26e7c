"""Tiny random checkpoints of each scorer, made by transformers."""

import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoImageProcessor,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)

WORDS = [*"abcdefghijklmnopqrstuvwxyz", "yes", "no", "Yes", "No", "YES", "dog", "red", "photo", "this", "A", "depicts"]
CHAT = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else ' ' + part['text'] }}{% endfor %} ASSISTANT:{% endfor %}"
)
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**TEXT, "image_size": 32, "patch_size": 8}


def word_tokenizer(*, end: bool, start: bool = False) -> PreTrainedTokenizerFast:
    """One token per known word; [CLS] first and [SEP] last where asked."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<image>", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{'[CLS] ' * start}$A{' [SEP]' * end}", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        bos_token="[CLS]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        eos_token="[SEP]",
        extra_special_tokens={"image_token": "<image>"},
    )


def save(folder: Path, model, tokenizer: PreTrainedTokenizerFast, **preprocessing) -> Path:
    # transformers initialises some weights to nothing at all: every weight has to matter.
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    return folder


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Of three sizes and all colours."""
    draw = torch.Generator().manual_seed(0)
    sizes = [(32, 32), (50, 40), (33, 70)]
    noise = [torch.randint(256, (height, width, 3), generator=draw, dtype=torch.uint8) for width, height in sizes]
    return [Image.fromarray(pixels.numpy()) for pixels in noise]


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    tokenizer = word_tokenizer(start=True, end=True)
    text = {**TEXT, "vocab_size": len(tokenizer), "max_position_embeddings": 12, "eos_token_id": 3}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16))
    return save(tmp_path_factory.mktemp("clip"), model, tokenizer)


@pytest.fixture(scope="session")
def siglip_folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    tokenizer = word_tokenizer(end=True)
    text = {**TEXT, "vocab_size": len(tokenizer), "max_position_embeddings": 12, "projection_size": 32}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))
    return save(tmp_path_factory.mktemp("siglip"), model, tokenizer, resample=2, image_mean=[0.5, 0.5, 0.4])


@pytest.fixture(scope="session")
def vlm_folder(tmp_path_factory) -> Path:
    """A LLaVA of random weights."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer(start=True, end=False)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(**VISION),
            text_config=LlamaConfig(**TEXT, vocab_size=len(tokenizer), num_key_value_heads=2),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        )
    )
    size = {"crop_size": {"height": 32, "width": 32}, "size": {"shortest_edge": 32}}
    folder = save(tmp_path_factory.mktemp("vlm"), model, tokenizer, image_processor_type="CLIPImageProcessor", **size)
    processor = LlavaProcessor(
        image_processor=AutoImageProcessor.from_pretrained(folder, use_fast=False),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def image_reward_folder(tmp_path_factory, image_reward_weights) -> Path:
    folder = tmp_path_factory.mktemp("image-reward")
    tokenizer = word_tokenizer(start=True, end=True)
    tokenizer.save_pretrained(folder)
    torch.save(image_reward_weights, folder / "ImageReward.pt")
    med_config = {**TEXT, "vocab_size": len(tokenizer), "max_position_embeddings": 40, "type_vocab_size": 2}
    (folder / "med_config.json").write_text(json.dumps(med_config))
    return folder


@pytest.fixture(scope="session")
def image_reward_weights() -> dict[str, torch.Tensor]:
    """Under the names of the released file; of a vision transformer of width 128 and a text encoder of width 32."""
    draw = torch.Generator().manual_seed(0)
    vocabulary = len(word_tokenizer(start=True, end=True))
    block = {"norm1": (128,), "norm2": (128,), "attn.qkv": (384, 128), "attn.proj": (128, 128)}
    block |= {"mlp.fc1": (256, 128), "mlp.fc2": (128, 256)}
    shapes = {f"visual_encoder.blocks.{n}.{name}": shape for n in range(2) for name, shape in block.items()}
    shapes |= {"visual_encoder.norm": (128,), "visual_encoder.patch_embed.proj": (128, 3, 8, 8)}
    shapes |= {"text_encoder.embeddings.LayerNorm": (32,), "vision_proj": (256, 128), "text_proj": (256, 32)}
    layer = {"intermediate.dense": (64, 32), "output.dense": (32, 64), "output.LayerNorm": (32,)}
    for attention, width in (("attention", 32), ("crossattention", 128)):
        layer |= {f"{attention}.self.{name}": (32, width) for name in ("key", "value")}
        layer |= {f"{attention}.self.query": (32, 32), f"{attention}.output.dense": (32, 32)}
        layer |= {f"{attention}.output.LayerNorm": (32,)}
    shapes |= {f"text_encoder.encoder.layer.{n}.{name}": shape for n in range(2) for name, shape in layer.items()}
    weights = {
        f"blip.{name}.weight": torch.randn(shape, generator=draw) * 0.3 + (len(shape) == 1)  # norms are near 1
        for name, shape in shapes.items()
    }
    weights |= {f"blip.{name}.bias": torch.randn(shape[0], generator=draw) * 0.3 for name, shape in shapes.items()}
    embeddings = {"word_embeddings": (vocabulary, 32), "position_embeddings": (40, 32)}
    for name, shape in embeddings.items():
        weights[f"blip.text_encoder.embeddings.{name}.weight"] = torch.randn(shape, generator=draw)
    weights["blip.text_encoder.embeddings.position_ids"] = torch.arange(40)[None]
    weights["blip.visual_encoder.cls_token"] = torch.randn(1, 1, 128, generator=draw)
    weights["blip.visual_encoder.pos_embed"] = torch.randn(1, 17, 128, generator=draw)
    widths = {0: (32, 1024), 2: (1024, 128), 4: (128, 64), 6: (64, 16), 7: (16, 1)}
    for place, (inner, outer) in widths.items():
        weights[f"mlp.layers.{place}.weight"] = torch.randn(outer, inner, generator=draw) * inner**-0.5
        weights[f"mlp.layers.{place}.bias"] = torch.randn(outer, generator=draw) * 0.3
    return weights


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: dict


class LoopbackServer:
    """A real HTTP server: `answers` in their order, then `answer`; a status may also be "hang up" or "silence"."""

    def __init__(self) -> None:
        self.answers: list[tuple] = []
        self.answer = lambda request: (200, {})
        self.requests: list[Request] = []
        self.delay = 0.0
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer._handle(self)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        request = Request(handler.path, dict(handler.headers), body)
        with self._lock:
            self.requests.append(request)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            status, reply, *headers = self.answers.pop(0) if self.answers else self.answer(request)
        self._closed.wait(self.delay)
        with self._lock:
            self._at_once -= 1
        if status == "silence":
            self._closed.wait(5)
        if isinstance(status, int):
            content = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
            handler.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **(headers[0] if headers else {})}.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(content)


@pytest.fixture
def server():
    running = LoopbackServer()
    yield running
    running.close()
