"""An encoder-decoder with attention that writes a text anew, character by character, without its slips.

It owns the architecture: characters int64 [B,T] in, and with the right text up to each place [B,U], the probability of
the next character there. Encoder and attention: Bahdanau et al. 2015, arXiv 1409.0473; copying: See et al. 2017, arXiv
1704.04368; hashed n-grams: Clark et al. 2022, arXiv 2103.06874.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.alphabet import BOUNDARY

# Weights of the characters of an n-gram in its hash: odd, unlike, and together far above the number of buckets.
HASH_FACTORS = (1, 163, 40_503, 9_176_263, 2_654_435)
# Places to either side that have a bias of their own in the attention; what is further shares the last.
MAX_OFFSET = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectorShape:
    """The sizes of a corrector; `width` is that of each direction of the encoder, and of all else in proportion."""

    num_characters: int
    width: int
    num_buckets: int

    @property
    def part_width(self) -> int:
        """The size of each of the three embeddings that describe a character in its place."""
        return self.width // 3


class PlaceEmbedding(nn.Module):
    """Describes each place by its character, and by the three and the five characters around it.

    n-grams share a table by their hash. A row of a table costs no product, so a small network knows many of them.
    """

    def __init__(self, shape: CorrectorShape) -> None:
        super().__init__()
        self.num_buckets = shape.num_buckets
        self.characters = nn.Embedding(shape.num_characters, shape.part_width)
        self.threes = nn.Embedding(shape.num_buckets, shape.part_width)
        self.fives = nn.Embedding(2 * shape.num_buckets, shape.part_width)
        for table in (self.characters, self.threes, self.fives):
            nn.init.normal_(table.weight, std=0.3)

    @staticmethod
    def hashed(characters: Tensor, length: int, num_buckets: int, *, is_centred: bool) -> Tensor:
        """Hash the n-gram of `length` around or up to each place [B,T]; outside the text is the boundary."""
        after = length // 2 if is_centred else 0
        padded = functional.pad(characters, (length - 1 - after, after), value=BOUNDARY)
        num_places = characters.shape[1]
        total = sum(
            padded[:, start : start + num_places] * factor
            for start, factor in zip(range(length), HASH_FACTORS, strict=False)
        )
        return torch.as_tensor(total) % num_buckets

    def forward(self, characters: Tensor, *, is_centred: bool) -> Tensor:
        """Describe characters [B,T] as [B,T,3*part], by what stands around them, or by what stands before them."""
        threes = self.threes(self.hashed(characters, 3, self.num_buckets, is_centred=is_centred))
        fives = self.fives(self.hashed(characters, 5, 2 * self.num_buckets, is_centred=is_centred))
        return torch.cat((self.characters(characters), threes, fives), dim=-1)


class Corrector(nn.Module):
    """The whole network. A text is read in both directions, then written from left to right."""

    def __init__(self, shape: CorrectorShape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        width, read_width = shape.width, 2 * shape.width
        described = 3 * shape.part_width
        # One table for what is read and what is written: it is one language.
        self.embedding = PlaceEmbedding(shape)
        # Two networks, one for each direction: what a character ought to be is told by both sides.
        self.forwards = nn.GRU(described, width, batch_first=True)
        self.backwards = nn.GRU(described, width, batch_first=True)
        # The lower layer knows what was written, and asks; the upper one also knows the answer. As the answer does not
        # go back into the lower layer, a whole text is one call of each in training (Luong et al. 2015).
        self.lower = nn.GRU(described, width, batch_first=True)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(read_width, width, bias=False)
        self.upper = nn.GRU(width + read_width, read_width, batch_first=True)
        self.output = nn.Linear(read_width, shape.part_width)
        self.bias = nn.Parameter(torch.zeros(shape.num_characters))
        self.gate = nn.Linear(read_width, 1)
        self.dropout = nn.Dropout(dropout)
        # Texts and their corrections run side by side: the attention starts on the diagonal, instead of finding it.
        offsets = torch.arange(-MAX_OFFSET, MAX_OFFSET + 1).abs()
        self.offsets = nn.Parameter(-0.5 * offsets.float())

    def read(self, characters: Tensor) -> tuple[Tensor, Tensor]:
        """Read texts [B,T]; return what is known of each place [B,T,2W], and the places that hold text, bool [B,T]."""
        is_text = characters != BOUNDARY
        num_places = characters.shape[1]
        # Each row turned round within its own length, so that the network meets no filling before the text.
        places = torch.arange(num_places, device=characters.device)
        turned = (is_text.sum(1, keepdim=True) - 1 - places) % num_places  # [B,T]
        described = self.dropout(self.embedding(characters, is_centred=True))
        backwards = self.backwards(_take(described, turned))[0]
        return torch.cat((self.forwards(described)[0], _take(backwards, turned)), dim=-1), is_text

    def attend(self, states: Tensor, read: Tensor, is_text: Tensor, first: int = 0) -> Tensor:
        """Compute the attention [B,U,T] of the lower layer's states [B,U,W], of which the first is at place `first`."""
        places = first + torch.arange(states.shape[1], device=states.device)
        offsets = torch.arange(read.shape[1], device=states.device) - places[:, None]  # [U,T]
        near = self.offsets[offsets.clamp(-MAX_OFFSET, MAX_OFFSET) + MAX_OFFSET]
        scores: Tensor = self.query(states) @ self.key(read).transpose(1, 2) / self.shape.width**0.5 + near
        return scores.masked_fill(~is_text[:, None], -1e9).softmax(-1)

    def finish(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the probabilities [...,V] of a character that is written anew, and the share [...,1] of these."""
        states = self.dropout(states)
        logits = functional.linear(self.output(states), self.embedding.characters.weight, self.bias)
        return logits.softmax(-1), torch.sigmoid(self.gate(states))

    def forward(self, characters: Tensor, written: Tensor, wanted: Tensor) -> Tensor:
        """Compute the probability [B,U] of each character `wanted` [B,U], after those that are `written` [B,U].

        A character is written anew, or copied from where the network looks. So the copy of a name that it never met
        has not to be learnt.
        """
        read, is_text = self.read(characters)
        states = self.lower(self.dropout(self.embedding(written, is_centred=False)))[0]
        attention = self.attend(states, read, is_text)
        upper = self.upper(torch.cat((states, attention @ read), dim=-1))[0]
        anew, share = self.finish(upper)
        # The boundary is never copied: the filling is no text.
        copied = (attention * (characters[:, None] == wanted[:, :, None])).sum(-1)
        return share[..., 0] * anew.gather(-1, wanted[..., None])[..., 0] + (1 - share[..., 0]) * copied

    @torch.no_grad()
    def correct(self, characters: Tensor, max_length: int) -> tuple[Tensor, Tensor]:
        """Write the likeliest character at each place; return characters [B,U] and attention [B,U,T].

        U is `max_length`, or less where all rows have ended; what follows the end of a row is the boundary.
        """
        read, is_text = self.read(characters)
        num_rows = len(characters)
        copies = functional.one_hot(characters, self.shape.num_characters).float()  # [B,T,V]
        written = characters.new_full((num_rows, 1), BOUNDARY)
        lower = upper = None
        looked = []
        for place in range(max_length):
            described = self.embedding(written[:, -5:], is_centred=False)[:, -1:]
            states, lower = self.lower(described, lower)
            attention = self.attend(states, read, is_text, place)
            out, upper = self.upper(torch.cat((states, attention @ read), dim=-1), upper)
            anew, share = self.finish(out)
            likeliest = (share * anew + (1 - share) * (attention @ copies)).argmax(-1)  # [B,1]
            has_ended = (written[:, -1:] == BOUNDARY) if place else torch.zeros_like(likeliest, dtype=torch.bool)
            written = torch.cat((written, likeliest.masked_fill(has_ended, BOUNDARY)), dim=1)
            looked.append(attention)
            if bool((written[:, -1] == BOUNDARY).all()):
                break
        return written[:, 1:], torch.cat(looked, dim=1)


def _take(rows: Tensor, places: Tensor) -> Tensor:
    return rows.gather(1, places[..., None].expand_as(rows))
