"""Run the stage: python -m components.report --help."""

from components.entry import main

if __name__ == "__main__":
    main("report")
