"""pretrain: train the speech-text language model on the schedule that `mix` planned.

Reads   data/mix/shards, data/mix/tokenizer
Writes  data/pretrain/model/  a Hugging Face folder with its tokenizer and speech.json
Method  A text LM with rows for the speech tokens (or a random start, at the small scales) learns the next token of
        packed sequences, all tokens alike, no document seeing another. AdamW under a linear schedule; every sequence
        of the schedule is read once, in order; the loader's state is one integer, and a killed run goes on as if
        undisturbed. The loss never holds the logits of all tokens.
Source  Zeng et al. 2024, section 2.4
"""
