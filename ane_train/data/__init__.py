"""From text to batches: tokenizers, token shards, the split, and the order of a training run."""
