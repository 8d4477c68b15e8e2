"""Plain decoding with a cache against the network without one."""

from __future__ import annotations

import torch

from training.networks.transformer import Transformer, TransformerShape
from training.scores.text import sample_tokens
from training.studies.plain_decoding import CachedDecoder, answer, from_llama

SHAPE = TransformerShape(
    vocab_size=31, context=24, width=16, num_layers=2, num_heads=4, num_kv_heads=2, hidden_width=20
)


def network() -> Transformer:
    torch.manual_seed(6)
    made = Transformer(SHAPE)
    for parameter in made.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.4)
    return made.eval()


@torch.no_grad()
def test_cached_logits_are_those_of_the_whole_text() -> None:
    tokens = torch.randint(31, (24,), generator=torch.Generator().manual_seed(1)).tolist()
    decoder, made = CachedDecoder(network()), network()
    for first, last in ((0, 7), (7, 8), (8, 9), (9, 20), (20, 24)):
        found = decoder.advance(tokens[first:last])
        torch.testing.assert_close(found, made(torch.tensor([tokens[:last]]))[0, -1], rtol=1e-4, atol=1e-5)


def test_a_new_sequence_knows_nothing_of_the_one_before() -> None:
    decoder = CachedDecoder(network())
    first, _ = decoder.generate([0, 5, 6], 10)
    decoder.generate([0, 9, 9, 9, 9], 10)
    again, times = decoder.generate([0, 5, 6], 10)
    assert again == first == sample_tokens(network(), [0, 5, 6], 10, context=24, temperature=0)
    assert times == sorted(times)


def test_a_job_is_done_one_prompt_after_another() -> None:
    found = answer(CachedDecoder(network()), {"prompts": [[0, 1], [0, 2]], "texts": ["a", "b"], "num_tokens": 4})
    assert [len(row) for row in found["tokens"]] == [4, 4]
    assert found["times"][1][0] > found["times"][0][-1] > 0


def test_hugging_faces_tensors_become_ours() -> None:
    state = network().state_dict()
    theirs = {"model.embed_tokens.weight": state["embedding.weight"], "model.norm.weight": state["norm.weight"]}
    for index in range(2):
        ours, prefix = f"blocks.{index}.", f"model.layers.{index}."
        parts = state[f"{ours}attention.qkv.weight"].split([16, 8, 8])
        gate, up = state[f"{ours}feed_forward.gate_up.weight"].chunk(2)
        theirs |= {f"{prefix}self_attn.{name}_proj.weight": part for name, part in zip("qkv", parts, strict=True)}
        theirs |= {f"{prefix}mlp.gate_proj.weight": gate, f"{prefix}mlp.up_proj.weight": up}
        theirs |= {
            f"{prefix}self_attn.o_proj.weight": state[f"{ours}attention.output.weight"],
            f"{prefix}mlp.down_proj.weight": state[f"{ours}feed_forward.down.weight"],
            f"{prefix}input_layernorm.weight": state[f"{ours}attention_norm.weight"],
            f"{prefix}post_attention_layernorm.weight": state[f"{ours}feed_forward_norm.weight"],
        }
    made = from_llama(theirs, 2)
    assert made.keys() == state.keys()
    assert all(torch.equal(made[name], tensor) for name, tensor in state.items())
