"""dialogues: text dialogues become spoken ones, user and assistant both in text and in speech tokens.

Reads   data/collect/texts, data/collect/facts (contracts.Text, Fact), data/tokenize/tokens (contracts.SpeechTokens),
        data/text_to_token/model
Writes  data/dialogues/dialogues (contracts.Dialogue)
Method  Exchanges are found in the training texts: a question of the closed world with a sentence that answers it
        (spoken facts only, never a withheld one), conversations of the open-domain corpora, and dialogues from files of
        the user's own. A turn that an utterance of the training set says takes that utterance's tokens; any other is
        said by the text-to-token model. What cannot be said is dropped and counted.
Source  Zeng et al. 2024, section 2.4: text dialogues made speakable, questions voiced by TTS. Here the text-to-token
        model does what TTS and tokenizer did there, so no audio is made.
"""
