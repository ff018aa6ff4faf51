"""Run the stage: python -m components.speech_decoder --help."""

from components.entry import main

if __name__ == "__main__":
    main("speech_decoder")
