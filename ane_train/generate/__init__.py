"""Text from a model: decoding with a key-value cache, sampling, streaming, and evaluation.

It needs a model, its weights and an engine; training is not its business.
"""
