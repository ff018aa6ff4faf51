"""speech_decoder."""
