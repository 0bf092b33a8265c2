"""PyTorch's sides: transformers' models of our sizes, with random weights."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging

from ane_train.model.spec import ModelSpec, load_model


def new_model(spec: ModelSpec, attention: str = "sdpa") -> Any:
    """LlamaForCausalLM, or Qwen3ForCausalLM where queries and keys are normed."""
    config_class, model_class = (
        (Qwen3Config, Qwen3ForCausalLM) if spec.qk_norm else (LlamaConfig, LlamaForCausalLM)
    )
    torch.manual_seed(0)
    config = config_class(
        vocab_size=spec.vocabulary,
        hidden_size=spec.dim,
        intermediate_size=spec.ffn,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        head_dim=spec.head_size,
        rms_norm_eps=spec.norm_epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": spec.rope_theta},
        max_position_embeddings=4096,
        tie_word_embeddings=spec.tied_embeddings,
        attention_bias=False,
        attn_implementation=attention,
    )
    return model_class(config)


class Peer:
    """One micro-batch, eager or compiled, in fp32 or with bf16 autocast, on any thread count."""

    def __init__(self, model: str, batch: int, sequence: int) -> None:
        spec = load_model(model)
        self.model = new_model(spec).train()
        shape = (batch, sequence)
        self.inputs, self.targets = (torch.randint(spec.vocabulary, shape) for _ in range(2))
        self._ways = {"eager": self._loss, "compile": torch.compile(self._loss)}
        self.facts: dict[str, str] = {}

    def _loss(self, inputs: Any, targets: Any) -> Any:
        logits = self.model(input_ids=inputs, use_cache=False).logits
        return cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def run(self, way: str, dtype: str, threads: int) -> dict[str, Any]:
        """Seconds of forward, loss and backward; way "eager" or "compile", dtype "fp32" or "bf16".

        Gradients are made anew, which spares PyTorch the addition.
        """
        torch.set_num_threads(threads)
        self.model.zero_grad(set_to_none=True)
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            loss = self._ways[way](self.inputs, self.targets)
        loss.backward()
        return {"seconds": time.perf_counter() - start}


class Decoding:
    """Tokens after a prompt, one at a time, in fp32 with transformers' key-value cache."""

    def __init__(self, model: str) -> None:
        logging.set_verbosity_error()
        self.model = new_model(load_model(model)).eval()
        self.facts: dict[str, str] = {}

    def run(self, prompt: int, tokens: int, threads: int) -> dict[str, Any]:
        """Seconds of `tokens` greedy tokens after a prompt of so many, which does not count."""
        torch.set_num_threads(threads)
        with torch.inference_mode():
            found = self.model(input_ids=torch.arange(1, prompt + 1)[None], use_cache=True)
            start = time.perf_counter()
            for _ in range(tokens):
                token, cache = found.logits[:, -1:].argmax(-1), found.past_key_values
                found = self.model(input_ids=token, past_key_values=cache, use_cache=True)
            return {"seconds": time.perf_counter() - start}
