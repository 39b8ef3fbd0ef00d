"""The architectures: made small by their own configurations, with random weights; nothing is downloaded."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

SAMPLES, CLASSES, WORDS, LENGTH = 8, 3, 64, 12

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Architecture:
    """One public model.

    Attributes:
        name: Its own.
        library: That it comes from.
        make: A small one.
        batch: What it is called with, drawn from the global generator; ``labels`` are among it.
    """

    name: str
    library: str
    make: Callable[[], nn.Module]
    batch: Callable[[], Batch]

    @property
    def missing(self) -> str:
        """Which package is not installed, or nothing."""
        wanted = (self.library, *(("torchvision",) if self.library == "timm" else ()))
        return next((name for name in wanted if importlib.util.find_spec(name) is None), "")

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Its own loss, or cross-entropy of its scores."""
        if self.library == "transformers":
            own: Tensor = model(**batch).loss
            return own
        return nn.functional.cross_entropy(model(batch["pixel_values"]), batch["labels"])


@cache
def prepare() -> None:
    """Lets torchvision be imported where its compiled part was built for another device than torch.

    None of these models uses it, but without the names of two operators the package does not load at all.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
        importlib.import_module("torchvision")


def images(side: int = 32) -> Batch:
    """Of three channels."""
    return {"pixel_values": torch.randn(SAMPLES, 3, side, side), "labels": torch.arange(SAMPLES) % CLASSES}


def sentences() -> Batch:
    """One class each."""
    return {
        "input_ids": torch.randint(5, WORDS, (SAMPLES, LENGTH)),
        "labels": torch.arange(SAMPLES) % CLASSES,
    }


def text() -> Batch:
    """Every word is a label."""
    words = torch.randint(5, WORDS, (SAMPLES, LENGTH))
    return {"input_ids": words, "labels": words}


def waves() -> Batch:
    """Sound."""
    return {"input_values": torch.randn(SAMPLES, 2000), "labels": torch.arange(SAMPLES) % CLASSES}


def spectrograms() -> Batch:
    """Sound and the words in it."""
    return {"input_features": torch.randn(SAMPLES, 8, 64), "labels": text()["labels"]}


def configured(kind: str, task: str, **settings: Any) -> nn.Module:
    """A model of transformers, from a configuration of its kind."""
    library = importlib.import_module("transformers")
    config = library.AutoConfig.for_model(kind, **settings)
    model: nn.Module = getattr(library, f"AutoModelFor{task}").from_config(config)
    return model


def created(name: str, **settings: Any) -> nn.Module:
    """A model of timm."""
    library = importlib.import_module("timm")
    model: nn.Module = library.create_model(name, num_classes=CLASSES, **settings)
    return model


def vision(name: str) -> nn.Module:
    """A model of torchvision."""
    library = importlib.import_module("torchvision.models")
    model: nn.Module = getattr(library, name)(num_classes=CLASSES)
    return model


HIDDEN = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
ENCODER = {"vocab_size": WORDS, "max_position_embeddings": 32, **HIDDEN}
BOTH = {
    **dict.fromkeys(("encoder_layers", "decoder_layers", "encoder_attention_heads"), 2),
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "d_model": 24,
    "vocab_size": WORDS,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
TASKS: dict[str, tuple[str, Callable[[], Batch]]] = {
    "sentence": ("SequenceClassification", sentences),
    "words": ("CausalLM", text),
    "masked": ("MaskedLM", text),
    "translation": ("Seq2SeqLM", text),
    "speech": ("SpeechSeq2Seq", spectrograms),
    "image": ("ImageClassification", images),
    "sound": ("AudioClassification", waves),
}
TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("sentence", ENCODER),
    "roberta": ("sentence", ENCODER),
    "electra": ("sentence", {**ENCODER, "embedding_size": 24}),
    "distilbert": (
        "sentence",
        {
            "vocab_size": WORDS,
            "dim": 24,
            "n_layers": 2,
            "n_heads": 2,
            "hidden_dim": 48,
            "max_position_embeddings": 32,
        },
    ),
    "albert": ("sentence", {**ENCODER, "embedding_size": 16}),
    "deberta-v2": ("masked", ENCODER),
    "gpt2": (
        "words",
        {"vocab_size": WORDS, "n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 32, "eos_token_id": 2},
    ),
    "gpt_neox": ("words", ENCODER),
    "opt": (
        "words",
        {**ENCODER, "ffn_dim": 48, "word_embed_proj_dim": 24},
    ),
    "llama": ("words", {**ENCODER, "num_key_value_heads": 1}),
    "mistral": ("words", {**ENCODER, "num_key_value_heads": 1}),
    "qwen2": ("words", {**ENCODER, "num_key_value_heads": 1}),
    "mixtral": ("words", {**ENCODER, "num_key_value_heads": 1, "num_local_experts": 4}),
    "mamba": ("words", {"vocab_size": WORDS, "hidden_size": 24, "num_hidden_layers": 2, "state_size": 4}),
    "rwkv": (
        "words",
        {"vocab_size": WORDS, "hidden_size": 24, "num_hidden_layers": 2, "attention_hidden_size": 24},
    ),
    "t5": (
        "translation",
        {"vocab_size": WORDS, "d_model": 24, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 2}
        | {"decoder_start_token_id": 0},
    ),
    "bart": ("translation", {**BOTH, "max_position_embeddings": 32}),
    "whisper": (
        "speech",
        {**BOTH, "num_mel_bins": 8, "max_source_positions": 32, "max_target_positions": 32},
    ),
    "wav2vec2": (
        "sound",
        {**HIDDEN, "conv_dim": [16, 16], "conv_stride": [5, 4], "conv_kernel": [10, 4]}
        | {"num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
        | {"mask_time_prob": 0.0, "classifier_proj_size": 16},
    ),
    "vit": ("image", {**HIDDEN, "image_size": 32, "patch_size": 8}),
    "convnext": ("image", {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 1]}),
    "swin": (
        "image",
        {
            "image_size": 32,
            "patch_size": 2,
            "embed_dim": 16,
            "depths": [1, 1],
            "num_heads": [2, 2],
            "window_size": 4,
        },
    ),
}
_VIT = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2}
TIMM: dict[str, tuple[int, dict[str, Any]]] = {
    "resnetv2_50": (64, {"layers": (1, 1, 1, 1), "channels": (16, 16, 24, 32)}),
    "densenet121": (64, {"growth_rate": 4, "block_config": (2, 2, 2)}),
    "convnext_atto": (64, {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 24)}),
    "mobilenetv3_small_050": (64, {}),
    "ghostnet_050": (64, {}),
    "regnetx_002": (64, {}),
    "vit_tiny_patch16_224": (32, _VIT),
    "beit_base_patch16_224": (32, _VIT),
    "xcit_nano_12_p16_224": (32, {"img_size": 32, "depth": 2, "embed_dim": 32}),
    "swin_tiny_patch4_window7_224": (
        32,
        {
            "img_size": 32,
            "window_size": 4,
            "embed_dim": 16,
            "depths": (1, 1),
            "num_heads": (2, 2),
            "patch_size": 2,
        },
    ),
}
VISION = ("resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5")


def _of_transformers(kind: str) -> Architecture:
    task, settings = TRANSFORMERS[kind]
    head, batch = TASKS[task]
    classes = {"num_labels": CLASSES} if head.endswith("Classification") else {}
    return Architecture(kind, "transformers", partial(configured, kind, head, **settings, **classes), batch)


ARCHITECTURES = (
    *map(_of_transformers, TRANSFORMERS),
    *(
        Architecture(name, "timm", partial(created, name, **settings), partial(images, side))
        for name, (side, settings) in TIMM.items()
    ),
    *(Architecture(name, "torchvision", partial(vision, name), partial(images, 64)) for name in VISION),
)
