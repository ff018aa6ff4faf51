"""Run the stage: python -m components.evaluate --help."""

from components.entry import main

if __name__ == "__main__":
    main("evaluate")
