"""KV cache of the simulated engine: the tokens of running sequences, and the full blocks that later prompts may reuse."""

from collections import OrderedDict
from collections.abc import Sequence

BLOCK = 256  # tokens; vLLM's page on TPU for long contexts


class KvCache:
    """Counts tokens, not bytes. Blocks of finished sequences stay until their space is needed (least recently used first)."""

    def __init__(self, capacity: int, *, prefix_caching: bool) -> None:
        self.capacity = capacity
        self.held = 0
        """Tokens of running sequences."""
        self.queried = 0
        self.hits = 0
        self._prefix_caching = prefix_caching
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def cached_prefix(self, tokens: Sequence[str], salt: str | None = None) -> int:
        """Tokens at the start of a prompt whose blocks are cached. One is always left to compute."""
        cached = 0
        for key in self._keys(tokens, salt):
            if key not in self._blocks:
                break
            self._blocks.move_to_end(key)
            cached += BLOCK
        cached = min(cached, len(tokens) - 1)
        self.queried += len(tokens)
        self.hits += cached
        return cached

    def take(self, tokens: int) -> bool:
        """Hold `tokens` more for a running sequence; False if that many are not free."""
        if self.held + tokens > self.capacity:
            return False
        self.held += tokens
        while self._blocks and self.held + len(self._blocks) * BLOCK > self.capacity:
            self._blocks.popitem(last=False)
        return True

    def release(self, tokens: int, prompt: Sequence[str] = (), salt: str | None = None) -> None:
        """Free the tokens of a sequence that has ended; the blocks of its prompt may serve others while there is space."""
        self.held -= tokens
        for key in self._keys(prompt, salt):
            self._blocks[key] = None
            self._blocks.move_to_end(key)
        while self._blocks and self.held + len(self._blocks) * BLOCK > self.capacity:
            self._blocks.popitem(last=False)

    def _keys(self, tokens: Sequence[str], salt: str | None) -> list[int]:
        if not self._prefix_caching:
            return []
        keys, key = [], hash(salt)  # as vLLM salts a prompt's first block
        for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
            key = hash((key, *tokens[start : start + BLOCK]))
            keys.append(key)
        return keys
