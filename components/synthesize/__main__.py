"""Run the stage: python -m components.synthesize --help."""

from components.entry import main

if __name__ == "__main__":
    main("synthesize")
