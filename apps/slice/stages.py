"""How the layers of a model are dealt to the stages of a pipeline."""

from dataclasses import dataclass

from apps.slice.models import ModelShape


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
    """Layers in order, as evenly as `vllm.distributed.utils.get_pp_indices` deals them: what is left over goes to the
    stages before the last one, which has the logits to compute.
    """
    if count == 1:
        return (Stage(shape.sliding_layers, shape.global_layers, first=True, last=True),)
    sizes = [shape.layers // count] * count
    for position in range(2, shape.layers % count + 2):
        sizes[-position] += 1
    found, start = [], 0
    for number, size in enumerate(sizes):
        wide = sum(shape.is_global(layer) for layer in range(start, start + size))
        found.append(Stage(size - wide, wide, first=number == 0, last=number == count - 1))
        start += size
    return tuple(found)
