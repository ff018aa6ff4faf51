"""Run the stage: python -m components.dialogues --help."""

from components.entry import main

if __name__ == "__main__":
    main("dialogues")
