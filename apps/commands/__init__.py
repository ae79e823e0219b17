"""The commands of ``mobilevision``, one light module each.

A module has ``SUMMARY`` (one sentence), ``EXAMPLES`` (command lines), ``add_arguments(parser)`` and
``run(arguments)``. It imports torch, cv2, matplotlib and our own heavy modules inside ``run`` only,
so that ``--help`` answers at once.
"""
