"""Make a small model of Gemma 4's architecture with random weights, the same at each run: `python -m emulation.tpu.model`.

Sliding and global layers, 16 KV heads, a vision tower, the tokens of the chat format; a byte is a token. Runs in the TPU
engine's environment.
"""

import json
import sys
from pathlib import Path
from typing import Any

from apps.common.command_line import reports_errors
from apps.weights.cache import cached_directory
from benchmarks.compile.environment import digest
from emulation.hosts.cached_model import make_beside
from emulation.hosts.tpu_engine import MODEL

_MAX_CONTEXT = 16_384  # tokens; on the slice 131,072, for which this machine has no memory
_SEED = 0
_SPREAD = 0.15  # standard deviation of the weights
_EMPHASIS = 4.0  # of what a layer adds to a token's own embedding: with 1.0 every answer would repeat one token
_SPECIAL = {
    **{"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"},
    **{"image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>"},
    **{"audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>", "video_token": "<|video|>"},
    **{"sot_token": "<|turn>", "eot_token": "<turn|>", "soc_token": "<|channel>", "eoc_token": "<channel|>"},
    **{"stc_token": "<|tool_call>", "etc_token": "<tool_call|>", "escape_token": '<|"|>', "think_token": "<|think|>"},
    **{"str_token": "<|tool_response>", "etr_token": "<tool_response|>", "std_token": "<|tool>", "etd_token": "<tool|>"},
}
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|turn>{{ message.role | replace('assistant', 'model') }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% else %}<|image|>{% endif %}{% endfor %}{% endif %}<turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)


def make_model(directory: Path) -> None:
    """Write config, weights, tokenizer and processor to a new directory."""
    import torch
    from transformers import Gemma4Config, Gemma4ForConditionalGeneration

    tokenizer = _tokenizer()
    torch.manual_seed(_SEED)
    model = Gemma4ForConditionalGeneration(Gemma4Config(**_config(tokenizer)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, _SPREAD)
            elif ".post_" in name:
                parameter.fill_(_EMPHASIS)
    model.to(torch.bfloat16).save_pretrained(directory)
    _processor(tokenizer).save_pretrained(directory)
    _complete_config(directory / "config.json")


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = [*_SPECIAL.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(_SPECIAL.values()))
    named = dict(list(_SPECIAL.items())[:4])
    more = {name: token for name, token in _SPECIAL.items() if name not in named}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **named, extra_special_tokens=more)
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def _config(tokenizer: Any) -> dict[str, Any]:
    """Gemma 4 31B's configuration with smaller numbers; it has as many heads, which 16 chips share as on the slice."""
    vocabulary = -(-len(tokenizer) // 128) * 128
    text = {
        **{"vocab_size": vocabulary, "vocab_size_per_layer_input": vocabulary, "hidden_size_per_layer_input": 0},
        **{"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4},
        **{"num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 128},
        **{"num_global_key_value_heads": 4, "global_head_dim": 256, "attention_k_eq_v": True},
        **{"layer_types": ["sliding_attention"] * 3 + ["full_attention"], "sliding_window": 64},
        **{"max_position_embeddings": _MAX_CONTEXT, "final_logit_softcapping": 30.0, "num_kv_shared_layers": 0},
        **{"use_bidirectional_attention": "vision", "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2},
    }
    vision = {
        **{"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2},
        **{"num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 8},
        **{"patch_size": 16, "pooling_kernel_size": 3, "position_embedding_size": 10240, "standardize": True},
    }
    ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(token) for name, token in _SPECIAL.items()}
    kinds = ("image", "boi", "eoi", "video", "audio", "boa")
    marks = {f"{kind}_token_id": ids[f"{kind}_token_id"] for kind in kinds}
    return {"text_config": text, "vision_config": vision, **marks, "eoa_token_index": ids["eoa_token_id"]}


def _processor(tokenizer: Any) -> Any:
    from transformers import Gemma4Processor
    from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor
    from transformers.models.gemma4.image_processing_gemma4 import Gemma4ImageProcessor
    from transformers.models.gemma4.video_processing_gemma4 import Gemma4VideoProcessor

    parts = (Gemma4AudioFeatureExtractor(), Gemma4ImageProcessor(), tokenizer, Gemma4VideoProcessor())
    return Gemma4Processor(*parts, chat_template=_TEMPLATE)


def _complete_config(path: Path) -> None:
    """Add what tpu-inference 0.29.0 reads (gemma4_mm.py:681) and transformers leaves out."""
    config = json.loads(path.read_text())
    config["vision_config"]["default_output_length"] = config["vision_soft_tokens_per_image"] = 280
    path.write_text(json.dumps(config, indent=1))


def ensure_model() -> Path:
    """The directory of the model, made first if the cache lacks it."""
    target = cached_directory(f"{MODEL}-{digest(Path(__file__))}")
    if not target.exists():
        make_beside(target, lambda work: make_model(work / "model"))
    return target


@reports_errors()
def main() -> int:
    print(ensure_model())
    return 0


if __name__ == "__main__":
    sys.exit(main())
