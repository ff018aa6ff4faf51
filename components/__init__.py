"""The stages of the pipeline, one room each; they know no scheduler and no version control."""
