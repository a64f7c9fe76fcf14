"""What a chapter needs (parameter check, run folder, saving its results) and what runs one.

>>> from saebook.notebook import open_chapter
"""

from saebook.notebook.activations import collected_activations
from saebook.notebook.chapter import Chapter, open_chapter
from saebook.notebook.simulated import simulated_path, simulated_recording

__all__ = [
    "Chapter",
    "collected_activations",
    "open_chapter",
    "simulated_path",
    "simulated_recording",
]
