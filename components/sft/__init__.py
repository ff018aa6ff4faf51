"""sft: fine-tune the speech-text language model into a chatbot that hears, reads, writes and speaks.

Reads   data/dialogues/dialogues (contracts.Dialogue), data/pretrain/model
Writes  data/sft/model/  a Hugging Face folder with its tokenizer and speech.json
Method  Dialogues in the published chat format: the user's turn as audio or, for a share of them, as text; the answer as
        13 text tokens and 26 audio tokens in turn. Only the answers and the <|user|> that ends each are learnt. Packed
        sequences as in pretrain, AdamW under a linear schedule, several epochs.
Source  Zeng et al. 2024, section 2.4 (batch 64, length 4096, 10 epochs, 5e-5 to 5e-6); chat format of GLM-4-Voice.
"""
