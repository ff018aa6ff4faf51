"""Turns speech tokens back into speech: conditional flow matching to mel, then a vocoder.

Reads    data/tokenize/tokens        contracts.SpeechTokens, the code numbers of every utterance
         data/collect/utterances     contracts.Utterance, their audio
         data/speech_tokenizer/model the vectors that its codes stand for: where token embeddings begin
Writes   data/speech_decoder/model   config.json, flow.safetensors (published key names), speakers.safetensors;
                                     with a trained vocoder hift.safetensors
Method   token encoder with block attention -> length regulator -> U-Net flow (cosine time, Euler steps, guidance) ->
         80-bin mel at 22.05 kHz -> Griffin-Lim or HiFT, block by block of tokens as a stream does; trained in phases,
         with a prior loss of ours that makes it converge; HiFT learns from recorded waves alone, as a GAN
Source   speech decoder of GLM-4-Voice (design of CosyVoice, Du et al. 2024); prior loss after Matcha-TTS (Mehta et al.
         2024); HiFTNet (Li et al. 2023) with HiFi-GAN's and UnivNet's discriminators; averaged weights are saved
"""
