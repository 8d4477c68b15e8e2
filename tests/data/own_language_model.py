"""A small Llama of one's own, saved as Hugging Face's libraries save it."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

torch.manual_seed(0)
shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
config = LlamaConfig(vocab_size=4096, **shape, **heads, max_position_embeddings=512, bos_token_id=0, eos_token_id=0)
LlamaForCausalLM(config).save_pretrained("tiny-llama")

end = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
tokenizer = PreTrainedTokenizerFast(tokenizer_file="models/repository/novelist/1/tokenizer.json", **end)
tokenizer.save_pretrained("tiny-llama")
