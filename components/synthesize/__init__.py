"""synthesize: turn spans of ordinary texts into speech tokens, so that speech-text data needs no audio.

Reads   data/collect/texts (contracts.Text), data/text_to_token/model, data/speech_tokenizer/model (to hear a sample)
Writes  data/synthesize/interleaved/  (contracts.Interleaved), exact in float32 on a CPU, recorded otherwise
Method  Words (segmented units in Mandarin) are covered by spans of Poisson length until they hold a share of the text.
        What a span says goes through the text-to-token model in speakable form; the text itself stays as it was. Tokens
        that cannot be speech of their text (too short, too long, a loop, no end) are made once more with another seed;
        what fails again stays text and is counted. A sample of every shard is heard by the speech tokenizer.
Source  Zeng et al. 2024, section 2.3: spans of mean 10 words over 0.3 of the text
"""
