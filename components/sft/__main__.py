"""Run the stage: python -m components.sft --help."""

from components.entry import main

if __name__ == "__main__":
    main("sft")
