"""Faces: found, embedded, described, verified, kept in a gallery."""
