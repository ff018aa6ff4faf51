"""What several rooms use: contracts, tables, audio, vocabularies, tracking, training, execution, generation."""
