"""speech_tokenizer."""
