"""mix: turn every kind of data into token documents and plan, sequence by sequence, what pre-training reads.

Reads   data/collect/texts (contracts.Text), data/tokenize/tokens (contracts.SpeechTokens),
        data/synthesize/interleaved (contracts.Interleaved)
Writes  data/mix/tokenizer/  the LM's tokenizer with the speech tokens (Hugging Face files)
        data/mix/shards/     token shards per source and the schedule of packed sequences (shared.packed_data)
Method  Five sources: text, unsupervised speech, ASR pairs, TTS pairs, interleaved documents. A fixed share of the
        tokens is text, speech and pairs are seen for one epoch, interleaved documents fill the rest; a source is
        repeated only as often as `max_epochs` allows by name. Each epoch of a source has its own permutation, of all
        its documents or within groups of its shards; the sources run side by side in proportion, a window at a time;
        each window is packed by best fit, so that documents stay whole. The schedule is a pure function of (seed,
        documents), blind to ranks and workers. For an ablation interleaved documents have a number of epochs, some
        of them become text, and a filler (corpora of texts) takes what is left of the total.
Source  Zeng et al. 2024, sections 2.3 and 2.4; packing after Ding et al. 2024. The document formats are ours
        (docs/prompts.md): the paper's were never published.
"""
