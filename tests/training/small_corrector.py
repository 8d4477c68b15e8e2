"""A small corrector whose random weights show in what it writes, and an alphabet for it."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer

from training.data.tokens import train_tokenizer
from training.networks.corrector import Corrector, CorrectorShape

LETTERS = " .abcdeghimnorstuw"
TEXTS = ["two dogs met a cow", "a horse bites.", "w", "ten mice and one cat were not there"]


def alphabet_tokenizer() -> Tokenizer:
    """One token a character."""
    return train_tokenizer("char", [LETTERS], 0)


def small_corrector(seed: int = 5) -> Corrector:
    """Make a corrector that ends some texts early, some late and copies now and then."""
    torch.manual_seed(seed)
    shape = CorrectorShape(num_characters=alphabet_tokenizer().get_vocab_size(), width=12, num_buckets=32)
    network = Corrector(shape)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.6)
        network.bias[0] = 1.5
    return network.eval()
