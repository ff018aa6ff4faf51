"""tokenize: the speech tokens of every utterance.

Reads   data/collect/utterances (contracts.Utterance), data/speech_tokenizer/model
Writes  data/tokenize/tokens (contracts.SpeechTokens, in the order of the utterances; manifest: num_codes, tokens_per_s)
Method  the tokenizer's layers up to the quantiser alone, over keyed shards of so many utterances: a restart or a grown
        corpus makes only the shards that are missing. Batches are fixed by the shard, so that the result is
        byte-identical for any number of workers (float32 on a CPU). Audio that cannot be read is left out and counted.
Source  Zeng et al. 2024, section 2.1
"""
