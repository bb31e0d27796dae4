"""Random streams: every random decision draws from one of its own, made of the seed and a name.

Adding a normalizer therefore shifts no other draw: two arms that differ in the norm start from the
same weights and see the same images in the same order.
"""

import hashlib

import torch
from torch import nn


def stream_seed(seed: int, *names: str | int) -> int:
    """The seed of one random stream, as a number in [0, 2**63).

    Args:
        seed: The run's seed.
        names: What the stream is for: `("init", "conv1.weight")`, `("order", epoch)`.
    """
    text = "\x1f".join(str(part) for part in (seed, *names))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def stream(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator at the start of one random stream; see `stream_seed`."""
    return torch.Generator().manual_seed(stream_seed(seed, *names))


class Stochastic(nn.Module):
    """A module that draws random numbers in training, from a stream of its own.

    The stream's position is part of `state_dict`, so that a resumed run draws what the
    uninterrupted one would have drawn.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seed = 0
        self._generator: torch.Generator | None = None
        self._state: torch.Tensor | None = None

    def reseed(self, seed: int) -> None:
        """Start the stream anew from `seed` (a `stream_seed`)."""
        self._seed, self._generator, self._state = seed, None, None

    def generator(self, device: torch.device) -> torch.Generator:
        """The stream as a generator of `device`, made on first use."""
        if self._generator is None or self._generator.device != device:
            self._generator = torch.Generator(device).manual_seed(self._seed)
            if self._state is not None:
                self._generator.set_state(self._state)
        return self._generator

    def get_extra_state(self) -> torch.Tensor | None:
        """Position of the stream, for `state_dict`."""
        return self._generator.get_state() if self._generator is not None else self._state

    def set_extra_state(self, state: torch.Tensor | None) -> None:
        """Go back to a position that `get_extra_state` gave."""
        self._state = None if state is None else state.cpu()
        if self._generator is None:
            return
        # The generator stays the same object: a captured step draws from it.
        if self._state is None:
            self._generator.manual_seed(self._seed)
        else:
            self._generator.set_state(self._state)
