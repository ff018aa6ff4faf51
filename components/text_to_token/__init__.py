"""text_to_token."""
