"""A tiny Hugging Face model, made and not loaded, and quiet Trainers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

from nndiag.integrations.huggingface import DiagnosticsCallback

STEPS = 12
_TOKENS, _LENGTH = 50, 12


def rows(count: int = 64, *, texts: bool = False) -> list[dict[str, Any]]:
    """Sequences of three classes, or, with ``texts``, to be predicted token by token."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, _TOKENS, (count, _LENGTH), generator=generator)
    labels = tokens if texts else tokens.sum(1) % 3
    return [
        {"input_ids": t, "attention_mask": torch.ones_like(t), "labels": label}
        for t, label in zip(tokens, labels, strict=True)
    ]


def bert() -> Any:
    """An encoder with a classifier on top."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=_TOKENS, max_position_embeddings=_LENGTH, num_labels=3, **sizes)
    return BertForSequenceClassification(config)


def gpt() -> Any:
    """A decoder: its loss is shared among the batches of a step."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=_TOKENS, n_embd=16, n_layer=2, n_head=2, n_positions=_LENGTH)
    return GPT2LMHeadModel(config)


def watching(**options: Any) -> DiagnosticsCallback:
    """A callback that looks at each step it may and prints nothing; its own faults raise."""
    return DiagnosticsCallback(
        **{"every_n_train_steps": 1, "max_overhead": None, "console": False, "strict": True, **options}
    )


def trainer(directory: Path, callback: Any = None, model: Any = None, **options: Any) -> Trainer:
    """A Trainer on the CPU that says and writes nothing of its own."""
    defaults = {
        "output_dir": str(directory),
        "max_steps": STEPS,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "seed": 3,
        "disable_tqdm": True,
        "logging_steps": 1,
    }
    model = model or bert()
    texts = isinstance(model, GPT2LMHeadModel)
    made = Trainer(
        model=model,
        args=TrainingArguments(**{**defaults, **options}),
        train_dataset=rows(texts=texts),
        eval_dataset=rows(16, texts=texts),
        callbacks=[callback] if callback is not None else [],
    )
    made.pop_callback(PrinterCallback)
    return made


def trained(directory: Path, callback: Any = None, model: Any = None, **options: Any) -> Trainer:
    """One training from a fresh seed."""
    used = trainer(directory, callback, model, **options)
    used.train()
    return used


def history(used: Trainer) -> list[dict[str, float]]:
    """What the Trainer has logged, without times."""
    timed = ("runtime", "per_second")
    return [
        {k: v for k, v in logs.items() if not any(part in k for part in timed)}
        for logs in used.state.log_history
    ]


def hooks_on(model: nn.Module) -> int:
    """Forward hooks on all submodules."""
    tables = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(vars(module)[table]) for module in model.modules() for table in tables)
