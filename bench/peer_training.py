"""`python -m bench.peer_training SIZES`: a few steps of PyTorch's, for their peak memory."""

from __future__ import annotations

import json
import sys

import torch

from bench.memory import STEPS
from bench.peer import Peer
from bench.worker import cores


def main() -> None:
    """fp32, eager, with the fused AdamW and clipping, as we train."""
    peer = Peer(**json.loads(sys.argv[1]))
    parameters = list(peer.model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.1, fused=True)
    for _ in range(STEPS):
        peer.run("eager", "fp32", cores())
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()


if __name__ == "__main__":
    main()
