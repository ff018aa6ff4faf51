"""Run the stage: python -m components.collect --help."""

from components.entry import main

if __name__ == "__main__":
    main("collect")
