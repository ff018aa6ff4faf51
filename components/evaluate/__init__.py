"""Measure one trained model at a time on items that training never saw, beside an honest baseline.

Reads   data/<model>/model of the item's own model, and what its tasks need of data/collect (utterances, stories,
        questions, texts, facts), data/tokenize/tokens and data/synthesize/interleaved; an item opens nothing that it
        does not need
        the public test sets that evaluate.benchmarks names, for the speech tokenizer and the text-to-token model
Writes  data/evaluate/<model>/scores/    one contracts.ItemScore an item and mode (for the tokenizer also codebook.json)
        data/evaluate/<model>/samples/   contracts.Sample with FLAC files, to read and hear
        data/evaluate/<model>/metrics.json: <task>_<mode>[_<group>] with _low, _high (95% bootstrap over facts, or over
        utterances), _chance or _reference (the baseline on the same items), _difference with its own interval, _items
Method  transcription.py: WER and CER of the speech tokenizer beside the Whisper it started from
        benchmarks.py: the same on LibriSpeech and AISHELL-1
        generation.py: what the tokens of the text-to-token model say, with a speaker named and without; naming.py:
        whether the speaker asked for is told from them; recitation.py: the sentences of VCTK
        language_modelling.py: endings and answers ranked by likelihood in S->S, S->T and T->T; chance is the best
        baseline that sees no story or no question (likelihood.py)
        chat.py: spoken questions answered by the chat model, in text and in speech
        resynthesis.py: decoded speech, heard by an independent recogniser; sound_quality.py: how it sounds by
        DistillMOS, DNSMOS and ViSQOL, and whose voice it is by CAM++
        documents.py: interleaved documents, their spans marked, decoded and transcribed
        intervals.py, figures.py: 95% bootstrap intervals over facts, and over utterances for error rates
Source  Zeng et al. 2024, evaluation; spoken StoryCloze: Hassid et al. 2023 (TWIST)

The item (--item) is one of speech_tokenizer, text_to_token, pretrain, sft, speech_decoder.
"""
