"""Networks and rules that measure whether an image shows what was requested."""
