"""Language models: corpora, tokenizers, training, evaluation and export. Never imports the service."""
