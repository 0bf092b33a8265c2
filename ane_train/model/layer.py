"""From a model to the layer that it repeats, which is all that its programs need to know."""

from __future__ import annotations

from ane_train.model.arena import Arena
from ane_train.model.spec import ModelSpec
from ane_train.programs import Constants, LayerShape


def layer_shape(spec: ModelSpec, sequence: int, batch: int = 1) -> LayerShape:
    """The layer that `spec` repeats, for B sequences of S tokens side by side."""
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
        batch=batch,
    )


def layer_constants(weights: Arena, layer: int) -> Constants:
    """Views of a layer's weights, by their names within the layer."""
    prefix = f"layers.{layer}."
    return Constants(
        {
            name.removeprefix(prefix): view
            for name, view in weights.views.items()
            if name.startswith(prefix)
        }
    )
