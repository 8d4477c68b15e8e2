"""Text generation: completes prompts, and shows next-token candidates, scores and attention."""

from __future__ import annotations

from service.tasks.task import Task
from service.tasks.text_embedding.routes import EmbedByLanguageModel
from service.tasks.text_generation.inspection import Attention, Detokenize, NextToken, Tokenize
from service.tasks.text_generation.routes import Generate
from service.tasks.text_generation.scoring import Score

TASK = Task(
    name="text-generation",
    graphs=("prefill", "decode"),
    routes=(Generate, NextToken, Tokenize, Detokenize, Score, Attention, EmbedByLanguageModel),
    page="write",
)
