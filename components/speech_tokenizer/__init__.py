"""speech_tokenizer: speech to 12.5 very semantic tokens a second, and back to text.

Reads   data/collect/utterances (contracts.Utterance)
Writes  data/speech_tokenizer/model: a WhisperVQ folder with the published GLM-4-Voice field and key names, and the text
        tokenizer of the Whisper that it was started from
Method  a Whisper is fine-tuned on transcribed speech with average pooling and a vector-quantised bottleneck in the
        middle of its encoder: causal convolutions, block-causal attention, codebook by moving averages with a k-means
        start and restarts of dead codes. Ours: the states behind the bottleneck are also drawn to those of the Whisper
        that it was started from, which needs no transcripts and saves most of the steps.
Source  Zeng et al. 2024, section 2.1; published configuration and inference code of the GLM-4-Voice tokenizer
"""
