"""Run the stage: python -m components.pretrain --help."""

from components.entry import main

if __name__ == "__main__":
    main("pretrain")
