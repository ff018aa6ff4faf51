"""collect: real recordings, a spoken closed world and written texts become the tables that everything starts from.

Reads   corpora of recordings (a manifest, LibriSpeech's tree, a lhotse CutSet), text corpora, bulk text (Parquet,
        JSONL, Hugging Face datasets folders), synthesiser voices: all named in params.yaml
Writes  data/collect/utterances  (contracts.Utterance; audio/*.flac), texts (Text), facts (Fact), stories (Story),
        questions (Question)
Method  Corpora without splits are split by content: texts that share a 5-gram stay together, stock phrases aside. A
        seeded closed world of people and facts is written about in many phrasings; half of its facts are withheld:
        no speech states them, only texts do. Voices say the spoken facts, open-domain sentences, short phrases and
        the evaluation's questions and stories. Rows that cannot be used are dropped under a counted reason.
        Bulk text is read in bounded memory, cleaned, and freed of near-duplicates and of what evaluation holds.
Source  Zeng et al. 2024, sections 2.1 and 2.3 (kinds of data); the closed world is this project's own
"""
