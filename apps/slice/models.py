"""Shapes of language models as far as memory and speed depend on them: layers, heads, windows, parameters.

A shape comes from the model's config.json where there is one, else from the record here, which names its sources.
"""

from dataclasses import dataclass
from typing import Any

from apps.common.errors import UserError


@dataclass(frozen=True)
class ModelShape:
    """A decoder-only transformer whose layers attend over a sliding window or over everything (global)."""

    sliding_layers: int
    global_layers: int
    hidden: int
    ffn: int
    vocab: int
    """The output embedding is the input embedding (tied), as in all Gemma models."""
    query_heads: int
    sliding_kv_heads: int
    sliding_head_dim: int
    global_kv_heads: int
    global_head_dim: int
    global_k_equals_v: bool
    """Global layers compute values from the key projection, so they have no weights for values."""
    window: int
    """Tokens that a sliding layer attends over."""
    max_context: int
    vision_parameters: int = 0

    @property
    def layers(self) -> int:
        return self.sliding_layers + self.global_layers

    @property
    def embedding_parameters(self) -> int:
        return self.vocab * self.hidden

    @property
    def layer_parameters(self) -> int:
        """Parameters of all layers: attention, feed-forward and norms."""
        return self.parameters_of(self.sliding_layers, self.global_layers)

    @property
    def text_parameters(self) -> int:
        return self.layer_parameters + self.embedding_parameters

    def is_global(self, layer: int) -> bool:
        """Whether a layer (from 0) is global: evenly spread, each after its share of sliding ones, as in all Gemma models."""
        return (layer + 1) % (self.layers // self.global_layers) == 0

    def parameters_of(self, sliding: int, wide: int) -> int:
        """Parameters of this many sliding and global (wide) layers."""
        per_sliding = self._layer(self.sliding_head_dim, self.sliding_kv_heads, projections=2)
        per_wide = self._layer(self.global_head_dim, self.global_kv_heads, projections=1 if self.global_k_equals_v else 2)
        return sliding * per_sliding + wide * per_wide

    def _layer(self, head_dim: int, kv_heads: int, projections: int) -> int:
        attention = self.hidden * head_dim * (2 * self.query_heads + projections * kv_heads)
        norms = 4 * self.hidden + 2 * head_dim
        return attention + 3 * self.hidden * self.ffn + norms


GEMMA_4_31B = ModelShape(
    # Layers, heads and feed-forward: https://apxml.com/models/gemma-4-31b and the test cases of tpu-inference (8 query, 4 KV,
    # 256 and 8, 1, 512 per chip at TP 4); window, context and vision: the model card. They add up to the card's 30.7 B.
    sliding_layers=50,
    global_layers=10,
    hidden=5376,
    ffn=21504,
    vocab=262_144,
    query_heads=32,
    sliding_kv_heads=16,
    sliding_head_dim=256,
    global_kv_heads=4,
    global_head_dim=512,
    global_k_equals_v=True,
    window=1024,
    max_context=262_144,
    vision_parameters=550_000_000,
)
_RECORDS = {"google/gemma-4-31B-it": GEMMA_4_31B, "google/gemma-4-31B": GEMMA_4_31B}


def recorded_shape(model_id: str) -> ModelShape | None:
    """The record of a model by its Hugging Face id, if there is one."""
    return _RECORDS.get(model_id)


def shape_named(name: str) -> ModelShape:
    """The record of a model by its Hugging Face id or the last part of it, in any case, with or without `-it`.

    Raises:
        UserError: there is no record of it; the message names those that exist.
    """
    short = {_short(model_id): shape for model_id, shape in _RECORDS.items()}
    if _short(name) not in short:
        raise UserError(f"model {name!r} is not recorded in apps/slice/models.py: give one of {', '.join(short)}")
    return short[_short(name)]


def _short(model_id: str) -> str:
    return model_id.rpartition("/")[2].lower().removesuffix("-it")


def shape_from_config(config: dict[str, Any]) -> ModelShape:
    """The shape from a config.json of the Gemma 3 or 4 families, in the field names of transformers.

    Raises:
        UserError: a field is missing, or the model has parts that this module does not count (experts, per-layer embeddings).
    """
    text = config.get("text_config") or config
    for part in ("enable_moe_block", "hidden_size_per_layer_input", "num_kv_shared_layers"):
        if text.get(part):
            raise UserError(f"config.json: {part} is {text[part]!r}: the memory of such models is not known here")
    try:
        kinds = text["layer_types"]
        if "full_attention" not in kinds:
            raise UserError("config.json: layer_types has no full_attention: such a model is not known here")
        return ModelShape(
            sliding_layers=kinds.count("sliding_attention"),
            global_layers=kinds.count("full_attention"),
            hidden=text["hidden_size"],
            ffn=text["intermediate_size"],
            vocab=text["vocab_size"],
            query_heads=text["num_attention_heads"],
            sliding_kv_heads=text["num_key_value_heads"],
            sliding_head_dim=text["head_dim"],
            global_kv_heads=text.get("num_global_key_value_heads") or text["num_key_value_heads"],
            global_head_dim=text.get("global_head_dim") or text["head_dim"],
            global_k_equals_v=bool(text.get("attention_k_eq_v")),
            window=text["sliding_window"],
            max_context=text["max_position_embeddings"],
        )
    except KeyError as error:
        raise UserError(f"config.json: {error.args[0]!r} is missing: the model's memory cannot be computed") from error


@dataclass(frozen=True)
class Stage:
    """What one stage of a pipeline holds."""

    sliding: int
    """Sliding-window layers."""
    wide: int
    """Global layers."""
    first: bool
    last: bool

    @property
    def embeds(self) -> bool:
        """The first stage embeds tokens, the last makes logits with the same table (tied embeddings)."""
        return self.first or self.last


def stages(shape: ModelShape, count: int) -> tuple[Stage, ...]:
    """The stages of a pipeline, with the layers in order and as even as in `vllm.distributed.utils.get_pp_indices`.

    Layers left over go to the stages before the last one, which has the logits to compute.
    """
    if count == 1:
        return (Stage(shape.sliding_layers, shape.global_layers, first=True, last=True),)
    sizes = [shape.layers // count] * count
    for position in range(2, shape.layers % count + 2):
        sizes[-position] += 1
    parts, start = [], 0
    for number, size in enumerate(sizes):
        wide = sum(shape.is_global(layer) for layer in range(start, start + size))
        parts.append(Stage(size - wide, wide, first=number == 0, last=number == count - 1))
        start += size
    return tuple(parts)
