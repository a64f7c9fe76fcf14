"""The commands of ``python -m saebook``: each module has ``add_arguments`` and ``execute``."""
