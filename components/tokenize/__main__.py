"""Run the stage: python -m components.tokenize --help."""

from components.entry import main

if __name__ == "__main__":
    main("tokenize")
