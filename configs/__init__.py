"""Recipes as YAML: each file is complete and its header states what it measured."""
