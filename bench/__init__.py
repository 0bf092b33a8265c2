"""Benchmarks of the software engine, side by side with PyTorch and with what the machine can do.

`python -m bench` measures all rows of `measures.MEASURES` and writes bench.json; `python -m bench
NAME...` some of them. Needs the `test` extra. Nothing here is part of the package.
"""
