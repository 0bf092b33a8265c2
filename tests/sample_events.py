"""Events of an imagined run, for tests of whatever listens."""

from ane_train.metrics.events import RunEnded, RunStarted, StepDone

FACTS = {
    "model": "stories110m",
    "parameters": 109_529_856,
    "engine": "cpu",
    "engine_reason": "there is no ANE here",
    "numerics": "fp16",
    "blas": "OpenBLAS 0.3.30",
    "threads": 2,
    "data_name": "moby_dick.txt",
    "train_tokens": 312_400,
    "valid_tokens": 16_442,
    "batch_size": 1,
    "accum": 4,
    "sequence": 256,
    "steps": 300,
    "first_step": 0,
    "schedule": "cosine, peak 0.0003",
    "memory_needed": 3 << 30,
    "memory_available": 14 << 30,
    "seed": 1337,
    "resumed": False,
    "flops_per_token": 6e8,
}


def started(folder, **changes):
    return RunStarted(folder, **(FACTS | changes))


def step(number, loss=5.0, seconds=0.5, **changes):
    facts = {"timings": {"engine": 0.2, "io": 0.05}} | changes
    return StepDone(number, loss, 3e-4, 1.234, 1024.0, 1024, seconds, **facts)


def ended(folder, **changes):
    facts = {
        "reason": "finished",
        "step": 300,
        "steps": 300,
        "seconds": 150.0,
        "tokens": 307_200,
        "timings": {"engine": 90.0, "io": 15.0, "blas": 15.0, "overlapped": 60.0},
        "flops": 1.8e14,
        "peak_flops": 2.4e12,
        "best_step": 200,
        "best_loss": 4.6,
        "checkpoint": folder / "checkpoints" / "step-000300",
    }
    return RunEnded(**(facts | changes))
