"""Every field that a client may send, with its bound, for each route. What stands in no table is refused, as by OpenAI itself.

A test walks the request models of vLLM and of the openai client, so that a new field of either is a decision, not a surprise.
"""

from apps.guard.field_rules import (
    FLAG,
    PROMPT,
    SCALAR,
    UNUSED,
    Rule,
    closed,
    elsewhere,
    entries,
    fields,
    integer,
    number,
    one_of,
    strings,
    text,
    token_ids,
)

Table = dict[str, Rule]
_REPETITION: Table = {
    "max_pattern_size": integer(0, 1024),  # the engine compares so many tokens after each one that it makes
    "min_pattern_size": integer(0, 1024),
    "min_count": integer(0, 1024),
}
_STREAM_OPTIONS: Table = {"include_usage": FLAG, "continuous_usage_stats": FLAG, "include_obfuscation": UNUSED}

_TEMPLATE: Table = {
    "messages": elsewhere(list),  # its bytes count as the prompt; media by `MEDIA`
    "add_generation_prompt": FLAG,
    "continue_final_message": FLAG,
    "add_special_tokens": FLAG,
    "chat_template": closed("the model's own template is used"),
    "chat_template_kwargs": entries(16, SCALAR),  # such as enable_thinking
    "media_io_kwargs": closed("the server decides how media are read"),
    "mm_processor_kwargs": closed("the server decides how images become tokens"),
    "tools": elsewhere(list),  # by `grammars`, as all that may be compiled
}

_GENERATION: Table = {
    "model": text(),
    # how much
    "max_tokens": integer(),
    "min_tokens": integer(),
    "n": integer(1),
    "best_of": integer(1, 1),  # OpenAI's; vLLM has none
    "thinking_token_budget": integer(-1),
    "truncate_prompt_tokens": integer(-1),
    "truncation_side": one_of("left", "right"),
    # which token
    "temperature": number(0, 100),
    "top_p": number(0, 1),
    "top_k": integer(-1),
    "min_p": number(0, 1),
    "frequency_penalty": number(-2, 2),
    "presence_penalty": number(-2, 2),
    "repetition_penalty": number(0, 100),
    "length_penalty": number(-100, 100),
    "logit_bias": entries(1024, number(-100, 100)),
    "allowed_token_ids": token_ids(1024),
    "bad_words": strings("stop_strings"),
    "seed": integer(-(2**63), 2**63 - 1),
    "use_beam_search": FLAG,
    "response_format": elsewhere(dict),
    "structured_outputs": elsewhere(dict),
    # when it ends
    "stop": strings("stop_strings"),
    "stop_token_ids": token_ids(128),
    "include_stop_str_in_output": FLAG,
    "ignore_eos": FLAG,
    "repetition_detection": fields(_REPETITION),
    # what comes back
    "stream": FLAG,
    "stream_options": fields(_STREAM_OPTIONS),
    "stream_interval": integer(1, 1024),
    "echo": FLAG,
    "prompt_logprobs": integer(0, "logprobs"),  # -1 would be the whole vocabulary
    # The sampler of vLLM 0.29 then gives no other request of the step its own (`sample/sampler.py:134`).
    "logprob_token_ids": closed("it changes the logprobs that others get", neutral=()),
    "skip_special_tokens": FLAG,
    "spaces_between_special_tokens": FLAG,
    "return_tokens_as_token_ids": FLAG,
    "return_token_ids": FLAG,
    "return_token_offsets": FLAG,
    "routed_experts_prompt_start": integer(),
    # whose
    "user": text(),
    "session_id": text(),
    "request_id": text(64),
    "cache_salt": text(),
    "add_special_tokens": FLAG,
    # the server's own affairs
    "priority": integer(0, 0),  # keys take turns by their weights
    "kv_transfer_params": closed("it speaks to other servers"),
    "ec_transfer_params": closed("it speaks to other servers"),
    "vllm_xargs": closed("it is for extensions of the engine, and there are none"),
}

CHAT: Table = {
    **_GENERATION,
    **_TEMPLATE,
    "max_completion_tokens": integer(),
    "logprobs": FLAG,
    "top_logprobs": integer(0, "logprobs"),
    "tool_choice": elsewhere(str, dict),
    "parallel_tool_calls": FLAG,
    "reasoning_effort": one_of("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    "include_reasoning": FLAG,
    "documents": elsewhere(list),
    "return_prompt_text": FLAG,
    "return_assistant_tokens_mask": FLAG,
    **dict.fromkeys(
        (
            *("audio", "function_call", "functions", "metadata", "modalities", "moderation", "prediction", "prompt_cache_key"),
            *("prompt_cache_options", "prompt_cache_retention", "safety_identifier", "service_tier", "store", "verbosity"),
            "web_search_options",
        ),
        UNUSED,
    ),
}

COMPLETIONS: Table = {
    **_GENERATION,
    "prompt": PROMPT,
    "prompt_embeds": closed("the server computes embeddings itself"),
    "suffix": text(),
    "logprobs": integer(0, "logprobs"),
}

TOKENIZE: Table = {"model": text(), "prompt": text(None), "return_token_strs": FLAG, **_TEMPLATE}
DETOKENIZE: Table = {"model": text(), "tokens": token_ids()}

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
