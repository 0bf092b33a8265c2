"""From a model to the layer that it repeats, which is all that its programs need to know."""

from __future__ import annotations

from ane_train.model.spec import ModelSpec
from ane_train.programs import LayerShape


def layer_shape(spec: ModelSpec, sequence: int) -> LayerShape:
    """The layer that `spec` repeats, for sequences of S tokens."""
    return LayerShape(
        sequence=sequence,
        dim=spec.dim,
        heads=spec.heads,
        kv_heads=spec.kv_heads,
        head_size=spec.head_size,
        ffn=spec.ffn,
        rope_theta=spec.rope_theta,
        norm_epsilon=spec.norm_epsilon,
        qk_norm=spec.qk_norm,
    )
