"""A Hugging Face ``Trainer`` with nndiag in it: copy what you need.

Run it with ``python examples/huggingface_trainer.py``, then ``tensorboard --logdir runs``. It needs
``transformers[torch]``; the model is made, not downloaded.
"""

from __future__ import annotations

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import nndiag
from nndiag.integrations.huggingface import DiagnosticsCallback


def main(steps: int = 60) -> nndiag.Report:
    """Trains a small encoder whose pooler starts saturated: which rule says so?"""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertForSequenceClassification(BertConfig(vocab_size=100, max_position_embeddings=16, **sizes))
    torch.nn.init.normal_(model.bert.pooler.dense.weight, std=6.0)
    tokens = torch.randint(3, 100, (512, 16))
    rows = [{"input_ids": row, "labels": row[0] % 2} for row in tokens]

    callback = DiagnosticsCallback(log_dir="runs/huggingface")
    arguments = TrainingArguments(
        "runs/huggingface/out",
        max_steps=steps,
        logging_steps=10,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
    )
    Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[callback]).train()
    return callback.report


if __name__ == "__main__":
    main()
