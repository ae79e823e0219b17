"""How fast and how large a model is in every runtime installed, beside networks of others."""
