"""Every field that a client may send, with its bound, for each route. What stands in no table is refused, as by OpenAI itself.

A test walks the request models of vLLM and of the openai client, so that a new field of either is a decision, not a surprise.
"""

from apps.guard.field_rules import (
    Closed,
    Elsewhere,
    Entries,
    Fields,
    Flag,
    Integer,
    Number,
    OneOf,
    Prompt,
    Rule,
    Scalar,
    Strings,
    Text,
    TokenIds,
    Unused,
)

Table = dict[str, Rule]
_GRAMMAR = "grammars"
_PROMPT_TEXT = "its bytes count as the prompt; media by `MEDIA`"
_REPETITION: Table = {
    "max_pattern_size": Integer(0, 1024),  # the engine compares so many tokens after each one that it makes
    "min_pattern_size": Integer(0, 1024),
    "min_count": Integer(0, 1024),
}
_STREAM_OPTIONS: Table = {"include_usage": Flag(), "continuous_usage_stats": Flag(), "include_obfuscation": Unused()}

_TEMPLATE: Table = {
    "messages": Elsewhere((list,), _PROMPT_TEXT),
    "add_generation_prompt": Flag(),
    "continue_final_message": Flag(),
    "add_special_tokens": Flag(),
    "chat_template": Closed("the model's own template is used"),
    "chat_template_kwargs": Entries(16, Scalar()),  # such as enable_thinking
    "media_io_kwargs": Closed("the server decides how media are read"),
    "mm_processor_kwargs": Closed("the server decides how images become tokens"),
    "tools": Elsewhere((list,), _GRAMMAR),
}

_GENERATION: Table = {
    "model": Text(),
    # how much
    "max_tokens": Integer(),
    "min_tokens": Integer(),
    "n": Integer(1),
    "best_of": Integer(1, 1),  # OpenAI's; vLLM has none
    "thinking_token_budget": Integer(-1),
    "truncate_prompt_tokens": Integer(-1),
    "truncation_side": OneOf(("left", "right")),
    # which token
    "temperature": Number(0, 100),
    "top_p": Number(0, 1),
    "top_k": Integer(-1),
    "min_p": Number(0, 1),
    "frequency_penalty": Number(-2, 2),
    "presence_penalty": Number(-2, 2),
    "repetition_penalty": Number(0, 100),
    "length_penalty": Number(-100, 100),
    "logit_bias": Entries(1024, Number(-100, 100)),
    "allowed_token_ids": TokenIds(1024),
    "bad_words": Strings("stop_strings"),
    "seed": Integer(-(2**63), 2**63 - 1),
    "use_beam_search": Flag(),
    "response_format": Elsewhere((dict,), _GRAMMAR),
    "structured_outputs": Elsewhere((dict,), _GRAMMAR),
    # when it ends
    "stop": Strings("stop_strings"),
    "stop_token_ids": TokenIds(128),
    "include_stop_str_in_output": Flag(),
    "ignore_eos": Flag(),
    "repetition_detection": Fields(_REPETITION),
    # what comes back
    "stream": Flag(),
    "stream_options": Fields(_STREAM_OPTIONS),
    "stream_interval": Integer(1, 1024),
    "echo": Flag(),
    "prompt_logprobs": Integer(0, "logprobs"),  # -1 would be the whole vocabulary
    # The sampler of vLLM 0.29 then gives no other request of the step its own (`sample/sampler.py:134`).
    "logprob_token_ids": Closed("it changes the logprobs that others get", neutral=()),
    "skip_special_tokens": Flag(),
    "spaces_between_special_tokens": Flag(),
    "return_tokens_as_token_ids": Flag(),
    "return_token_ids": Flag(),
    "return_token_offsets": Flag(),
    "routed_experts_prompt_start": Integer(),
    # whose
    "user": Text(),
    "session_id": Text(),
    "request_id": Text(64),
    "cache_salt": Text(),
    "add_special_tokens": Flag(),
    # the server's own affairs
    "priority": Integer(0, 0),  # keys take turns by their weights
    "kv_transfer_params": Closed("it speaks to other servers"),
    "ec_transfer_params": Closed("it speaks to other servers"),
    "vllm_xargs": Closed("it is for extensions of the engine, and there are none"),
}

CHAT: Table = {
    **_GENERATION,
    **_TEMPLATE,
    "max_completion_tokens": Integer(),
    "logprobs": Flag(),
    "top_logprobs": Integer(0, "logprobs"),
    "tool_choice": Elsewhere((str, dict), _GRAMMAR),
    "parallel_tool_calls": Flag(),
    "reasoning_effort": OneOf(("none", "minimal", "low", "medium", "high", "xhigh", "max")),
    "include_reasoning": Flag(),
    "documents": Elsewhere((list,), _PROMPT_TEXT),
    "return_prompt_text": Flag(),
    "return_assistant_tokens_mask": Flag(),
    **dict.fromkeys(
        (
            *("audio", "function_call", "functions", "metadata", "modalities", "moderation", "prediction", "prompt_cache_key"),
            *("prompt_cache_options", "prompt_cache_retention", "safety_identifier", "service_tier", "store", "verbosity"),
            "web_search_options",
        ),
        Unused(),
    ),
}

COMPLETIONS: Table = {
    **_GENERATION,
    "prompt": Prompt(),
    "prompt_embeds": Closed("the server computes embeddings itself"),
    "suffix": Text(),
    "logprobs": Integer(0, "logprobs"),
}

TOKENIZE: Table = {"model": Text(), "prompt": Text(None), "return_token_strs": Flag(), **_TEMPLATE}
DETOKENIZE: Table = {"model": Text(), "tokens": TokenIds()}

TABLES = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETIONS,
    "/tokenize": TOKENIZE,
    "/detokenize": DETOKENIZE,
}

MEDIA = frozenset(
    (
        *("image_url", "image_pil", "image_embeds", "input_image", "image"),
        *("audio_url", "audio_embeds", "input_audio", "audio"),
        *("video_url", "video_embeds", "video"),
        "data",  # of prompt_embeds
    )
)
"""Fields of a content part that are no text. What ends in `_url` is one too, whatever it is."""
