"""ELIXR encoders of Google's CXR Foundation."""
