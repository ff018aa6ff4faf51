"""Run the stage: python -m components.mix --help."""

from components.entry import main

if __name__ == "__main__":
    main("mix")
