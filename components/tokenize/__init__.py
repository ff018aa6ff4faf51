"""tokenize: the speech tokens of every utterance.

Reads   data/collect/utterances (contracts.Utterance), data/speech_tokenizer/model
Writes  data/tokenize/tokens (contracts.SpeechTokens, in the utterances' order; manifest: num_codes, tokens_per_s),
        data/tokenize/quarantine (contracts.Quarantined: utterances whose audio cannot be read, and why)
Method  the tokenizer's layers up to the quantiser alone, over keyed shards of so many utterances: a restart or a grown
        corpus makes only the shards that are missing. Batches are fixed by the shard, so that the result is
        byte-identical for any number of workers and any executor (float32 on a CPU). Recordings are read ahead, a few
        minutes of sound at a time, and rows by the worker that needs them: memory does not grow with the corpus.
Source  Zeng et al. 2024, section 2.1
"""
