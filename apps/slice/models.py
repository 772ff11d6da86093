"""Shapes of language models as far as memory and speed depend on them: layers, heads, windows, parameters.

A shape comes from the model's config.json where there is one (model_config.py), else from the record here.
"""

from dataclasses import dataclass, replace

from apps.common.errors import UserError


@dataclass(frozen=True)
class ModelShape:
    """A decoder-only transformer whose layers attend over a sliding window or over everything (global)."""

    sliding_layers: int
    global_layers: int
    hidden: int
    ffn: int
    """Width of the feed-forward that every token passes, shared experts among it; 0 where there are only routed experts."""
    vocab: int
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
    tied: bool = True
    """Whether the output embedding is the input embedding, as in all Gemma models."""
    experts: int = 0
    """Routed experts of each layer."""
    experts_per_token: int = 0
    expert_ffn: int = 0

    @property
    def layers(self) -> int:
        return self.sliding_layers + self.global_layers

    @property
    def head_parameters(self) -> int:
        """Those of the table that makes logits."""
        return self.vocab * self.hidden

    @property
    def embedding_parameters(self) -> int:
        return self.head_parameters * (1 if self.tied else 2)

    @property
    def layer_parameters(self) -> int:
        """Parameters of all layers: attention, feed-forward, experts and norms."""
        per_sliding = self._layer(self.sliding_head_dim, self.sliding_kv_heads, projections=2)
        per_global = self._layer(self.global_head_dim, self.global_kv_heads, projections=1 if self.global_k_equals_v else 2)
        return self.sliding_layers * per_sliding + self.global_layers * per_global

    def touched_parameters(self, tokens: int | None = None) -> float:
        """Parameters of the layers that a step of `tokens` tokens uses, where each token's experts are drawn at random.

        None is the least: all tokens have the same experts. It is also what one token is multiplied with.
        """
        if not self.experts:
            return self.layer_parameters
        share = self.experts_per_token / self.experts
        idle = 1 - share if tokens is None else (1 - share) ** tokens
        return self.layer_parameters - idle * self.layers * self.experts * self._expert

    @property
    def text_parameters(self) -> int:
        return self.layer_parameters + self.embedding_parameters

    def _layer(self, head_dim: int, kv_heads: int, projections: int) -> int:
        attention = self.hidden * head_dim * (2 * self.query_heads + projections * kv_heads)
        norms = 4 * self.hidden + 2 * head_dim
        experts = self.experts * (self._expert + self.hidden)  # and what routes to each
        return attention + 3 * self.hidden * self.ffn + experts + norms

    @property
    def _expert(self) -> int:
        return 3 * self.hidden * self.expert_ffn


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


def _plain(layers: int, hidden: int, ffn: int, vocab: int, heads: tuple[int, int, int], context: int) -> ModelShape:
    """A model whose layers are all global and whose output embedding is its own; query heads, KV heads, size of a head."""
    query, kv, size = heads
    return ModelShape(0, layers, hidden, ffn, vocab, query, kv, size, kv, size, False, context, context, tied=False)


def _mixture(shape: ModelShape, experts: int, each: int, width: int) -> ModelShape:
    return replace(shape, experts=experts, experts_per_token=each, expert_ffn=width)


_RECORDS = {  # sizes as published; tests/slice/test_models.py compares the parameters with the model cards
    "google/gemma-4-31B-it": GEMMA_4_31B,
    "google/gemma-4-31B": GEMMA_4_31B,
    "google/gemma-4-26B-A4B-it": _mixture(
        ModelShape(25, 5, 2816, 2112, 262_144, 16, 8, 256, 2, 512, True, 1024, 262_144, vision_parameters=550_000_000),
        *(128, 8, 704),
    ),
    "google/gemma-3-27b-it": ModelShape(
        *(52, 10, 5376, 21_504, 262_208, 32, 16, 128, 16, 128, False, 1024, 131_072), vision_parameters=417_000_000
    ),
    "google/gemma-2-27b-it": ModelShape(23, 23, 4608, 36_864, 256_000, 32, 16, 128, 16, 128, False, 4096, 8192),
    "meta-llama/Llama-3.3-70B-Instruct": _plain(80, 8192, 28_672, 128_256, (64, 8, 128), 131_072),
    "meta-llama/Llama-3.1-8B-Instruct": _plain(32, 4096, 14_336, 128_256, (32, 8, 128), 131_072),
    "Qwen/Qwen3-32B": _plain(64, 5120, 25_600, 151_936, (64, 8, 128), 40_960),
    "Qwen/Qwen3-8B": _plain(36, 4096, 12_288, 151_936, (32, 8, 128), 40_960),
    "Qwen/Qwen3-30B-A3B": _mixture(_plain(48, 2048, 0, 151_936, (32, 4, 128), 40_960), 128, 8, 768),
    "openai/gpt-oss-120b": _mixture(
        ModelShape(18, 18, 2880, 0, 201_088, 64, 8, 64, 8, 64, False, 128, 131_072, tied=False), 128, 4, 2880
    ),
}


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


def model_id_of(shape: ModelShape) -> str | None:
    """The Hugging Face id of a recorded shape."""
    return next((model_id for model_id, recorded in _RECORDS.items() if recorded == shape), None)


def _short(model_id: str) -> str:
    return model_id.rpartition("/")[2].lower().removesuffix("-it").removesuffix("-instruct")
