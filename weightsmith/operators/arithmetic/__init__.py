"""What operators compute with. Imported only when they run: it needs numpy or torch at once."""
