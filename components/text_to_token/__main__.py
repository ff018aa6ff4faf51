"""Run the stage: python -m components.text_to_token --help."""

from components.entry import main

if __name__ == "__main__":
    main("text_to_token")
