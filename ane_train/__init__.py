"""Train Llama-family language models on the Apple Neural Engine, and anywhere else."""

__version__ = "0.1.0"
