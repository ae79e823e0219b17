"""What a person runs: the command lines, pictures and tables.

Nothing is imported here, so that a command that needs no torch starts without it.
"""
