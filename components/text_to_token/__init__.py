"""text_to_token: train a causal LM that says any text as speech tokens, so that no audio has to be synthesised.

Reads   data/tokenize/tokens (contracts.SpeechTokens), data/speech_tokenizer/model (to hear what it says)
Writes  data/text_to_token/model/  stock Llama folder, its tokenizer, speech.json (see model.py)
Method  Pairs of (speakable text, speech tokens) with human text are packed without attention across pairs; the loss is
        taken on the speech tokens and their end only. Half of the pairs name their speaker, so that naming one is
        optional later. What real pairs take (tokens for a text, longest repetition) is learnt beside the model and
        judges what it generates. Watched: loss, token accuracy, and the WER of its tokens as the tokenizer hears them.
Source  Zeng et al. 2024, section 2.3 (1.5B parameters, decoder-only); the format is ours (docs/prompts.md).
"""
